//! A DNS server that never gives an address.
//!
//! In: datagrams. Out: the same question with an answer code that is a failure, or nothing.

use std::str::FromStr;

use anyhow::{Result, bail};
use tokio::net::UdpSocket;

/// What it answers, whatever the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such name (rcode 3).
    NxDomain,
    /// The server failed (rcode 2).
    ServFail,
    /// Nothing.
    Silent,
}

impl FromStr for Failure {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "nxdomain" => Self::NxDomain,
            "servfail" => Self::ServFail,
            "silent" => Self::Silent,
            _ => bail!("a DNS server is nxdomain, servfail or silent, not `{word}`"),
        })
    }
}

/// Serves until the task is dropped.
pub async fn serve(socket: UdpSocket, failure: Failure) {
    let mut query = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut query).await else {
            continue;
        };
        let Some(answer) = answer(query.get(..length).unwrap_or_default(), failure) else {
            continue;
        };
        // Whoever is gone needs no answer.
        let _sent = socket.send_to(&answer, from).await;
    }
}

/// Id and question of the query, and the code (RFC 1035 4.1.1); additional records are left
/// out.
fn answer(query: &[u8], failure: Failure) -> Option<Vec<u8>> {
    let code = match failure {
        Failure::NxDomain => 3,
        Failure::ServFail => 2,
        Failure::Silent => return None,
    };
    let id = query.get(..2)?;
    let question = query.get(12..)?;
    // Labels up to the empty one, then type and class.
    let mut end = 0;
    loop {
        let length = usize::from(*question.get(end)?);
        end += 1 + length;
        if length == 0 {
            break;
        }
    }
    let question = question.get(..end + 4)?;
    let mut answer = id.to_vec();
    // Answer, recursion desired and available; one question.
    answer.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_repeats_the_question_and_bears_the_code() {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend_from_slice(b"\x01a\x04test\0\0\x01\0\x01");
        query.extend_from_slice(&[0; 11]);

        let answer = answer(&query, Failure::NxDomain).unwrap();

        assert_eq!(answer.get(..4), Some(&[0xab, 0xcd, 0x81, 0x83][..]));
        assert!(answer.ends_with(b"\x04test\0\0\x01\0\x01"));
        assert_eq!(super::answer(&query, Failure::Silent), None);
        assert_eq!(super::answer(&query[..14], Failure::ServFail), None);
    }
}

//! What the servers did, for a test to compare with: a line for each request that arrived.
//!
//! In: requests as they are read. Out: lines of a file, and [`Served`] read back from it. A
//! proxy that tries twice makes two lines; a connection that carries no request makes none.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use super::request::Head;

/// Where lines go, if anywhere.
#[derive(Debug, Default)]
pub struct Record {
    file: Option<Mutex<File>>,
}

/// A request that arrived at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Port of the server.
    pub port: u16,
    /// How many requests its connection had carried before.
    pub earlier: usize,
    /// Path, with query.
    pub target: String,
    /// Its `X-Order`, if it had one.
    pub words: Option<String>,
}

impl Record {
    /// Into a new file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot record to {}", path.display()))?;
        Ok(Self {
            file: Some(Mutex::new(file)),
        })
    }

    /// Adds a request, before it is answered.
    pub(super) fn add(&self, server: SocketAddr, earlier: usize, head: &Head) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let Head { target, words, .. } = head;
        let words = words.as_deref().unwrap_or("-");
        // One write a line: whoever reads sees whole lines.
        let line = format!("{}\t{earlier}\t{target}\t{words}\n", server.port());
        file.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes())?;
        Ok(())
    }

    /// All requests in the file at `path`, in the order in which they arrived.
    ///
    /// # Errors
    /// There is no such file, or it is not a record.
    pub fn read(path: &Path) -> Result<Vec<Served>> {
        let text =
            fs::read_to_string(path).with_context(|| format!("no record at {}", path.display()))?;
        text.lines()
            .map(|line| served(line).with_context(|| format!("`{line}` is no line of a record")))
            .collect()
    }
}

fn served(line: &str) -> Option<Served> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    Some(Served {
        port: next()?.parse().ok()?,
        earlier: next()?.parse().ok()?,
        target: next()?.to_owned(),
        words: next().filter(|words| *words != "-").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let expected = Served {
            port: 9001,
            earlier: 2,
            target: "/a/1/any".to_owned(),
            words: Some("7/reset".to_owned()),
        };
        assert_eq!(served("9001\t2\t/a/1/any\t7/reset"), Some(expected));
        assert_eq!(served("9001\t2\t/a/1/any\t-").unwrap().words, None);
        assert_eq!(served("9001\tx"), None);
    }
}

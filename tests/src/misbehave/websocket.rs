//! Answers a WebSocket handshake and echoes whatever comes.
//!
//! The echo is of bytes, not of frames: after a right 101 that is all a proxy sees.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::After;
use super::request::Head;

/// RFC 6455 section 1.3.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_of(key: &str) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(key.as_bytes());
    hash.update(KEY_SUFFIX.as_bytes());
    STANDARD.encode(hash.digest().bytes())
}

/// Upgrades and echoes until the peer closes. Without a key the answer is a 400.
pub(super) async fn serve(stream: &mut TcpStream, head: &Head) -> Result<After> {
    let Some(key) = &head.websocket_key else {
        stream
            .write_all(
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .await?;
        return Ok(After::Close);
    };
    let accept = accept_of(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(After::Close);
        }
        stream
            .write_all(bytes.get(..read).unwrap_or_default())
            .await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted_as_there() {
        assert_eq!(
            accept_of("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}

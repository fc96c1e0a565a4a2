//! Upstream servers that misbehave on request, for tests and demonstrations.
//!
//! Prints `ready ADDRESS BEHAVIOUR` for each port, then serves until it is stopped.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::misbehave::behaviour::Behaviour;
use e2e::misbehave::dns::{self, Failure};
use e2e::misbehave::record::Record;
use e2e::misbehave::{listen, serve};
use tokio::net::UdpSocket;

/// Serves HTTP/1.1 and breaks it as ordered by the last segment of each request's path.
#[derive(Debug, Parser)]
#[command(after_help = GRAMMAR)]
struct Options {
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// A port, and what it does when a path orders nothing: `9001`, `9002=reset`,
    /// `9003=ok,idle=1000`. 0 takes any free port. May be given more than once.
    #[arg(long = "port", value_name = "PORT[=WORDS]", required = true)]
    ports: Vec<Port>,
    /// Where a DNS server fails, over UDP: `127.0.53.1:53=nxdomain`, `127.0.53.2:53=servfail`,
    /// `127.0.53.3:53=silent`. May be given more than once.
    #[arg(long = "dns", value_name = "ADDRESS:PORT=FAILURE")]
    dns: Vec<Dns>,
    /// A file to which each request that arrives is written: port, requests before it on its
    /// connection, path, `X-Order`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

const GRAMMAR: &str = "\
Words, separated by commas (times in milliseconds, sizes in bytes):
  ok                    200 with two bytes
  status=N body=N       status code; bytes of body
  chunked until_close   framing of the body; Content-Length otherwise
  pad=N                 a header of N bytes more
  last                  close after the answer
  wait=MS               silence before the first byte
  split=N bytewise      head in two segments, the first of N bytes; a segment for each byte
  piece=N pause=MS      body in pieces of N bytes; silence between pieces and segments
  reset close           RST or FIN instead of an answer
  unread                close with the request unread, which makes an RST
  hang                  no answer
  garbage               bytes that are not HTTP
  bad_header bad_chunk  a head or a chunk that no parser takes
  bad_status            a status code that is no number
  two_framings          Content-Length and Transfer-Encoding at once
  framing=lengths       Content-Length twice; also length (no number), huge (65 bits), coding
                        (unknown), space (before the colon), cr (a bare one), empty (204, a body)
  h2 tls_bytes          frames of HTTP/2, a TLS alert instead of an answer
  cookies=N             N Set-Cookie headers of 400 bytes
  head_cut=N cut=N      head or body ends after N bytes ...
  by=fin|rst|hang       ... in this way, or ...
  by=kill|segv          ... by the end of the whole process
  stall_body            the request's body is never read
  reset_body=N          RST after N bytes of the request's body
  early                 answer before the request's body, then RST
  if_reused             all this only on a connection that was used before
  websocket             101 and an echo
  hints                 103 before the answer
  idle=MS deaf          of a port: keep-alive timeout; never accept
  slam                  of a port: end (by=) each connection as it is accepted
  banner                of a port: speak first, as SSH does
  hello=close|reset|alert|plain|hang
                        of a port: what follows the first bytes, such as a ClientHello
A path whose last segment has other words, such as `any`, leaves it to the port. An X-Order
header takes the place of the path.";

/// A port on the command line.
#[derive(Clone, Debug)]
struct Port {
    number: u16,
    words: String,
    behaviour: Behaviour,
}

/// A DNS server on the command line.
#[derive(Clone, Debug)]
struct Dns {
    address: SocketAddr,
    failure: Failure,
}

impl FromStr for Dns {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, failure) = text
            .split_once('=')
            .context("a DNS server is ADDRESS:PORT=FAILURE")?;
        Ok(Self {
            address: address
                .parse()
                .with_context(|| format!("`{address}` is no address with a port"))?,
            failure: failure.parse()?,
        })
    }
}

impl FromStr for Port {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, words) = text.split_once('=').unwrap_or((text, "ok"));
        Ok(Self {
            number: number
                .parse()
                .with_context(|| format!("`{number}` is no port"))?,
            words: words.to_owned(),
            behaviour: words.parse()?,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Options {
        bind,
        ports,
        dns,
        record,
    } = Options::parse();
    let record = Arc::new(match record {
        Some(path) => Record::create(&path)?,
        None => Record::default(),
    });
    let mut servers = tokio::task::JoinSet::new();
    for Port {
        number,
        words,
        behaviour,
    } in ports
    {
        let listener = listen(SocketAddr::new(bind, number), &behaviour)?;
        writeln!(
            std::io::stdout(),
            "ready {} {words}",
            listener.local_addr()?
        )?;
        servers.spawn(serve(listener, behaviour, Arc::clone(&record)));
    }
    for Dns { address, failure } in dns {
        let socket = UdpSocket::bind(address)
            .await
            .with_context(|| format!("cannot bind UDP {address}"))?;
        writeln!(
            std::io::stdout(),
            "ready {} {failure:?}",
            socket.local_addr()?
        )?;
        servers.spawn(dns::serve(socket, failure));
    }
    std::io::stdout().flush()?;
    servers.join_all().await;
    Ok(())
}

//! Reads TCP segments out of a capture file of Ethernet frames.
//!
//! In: the bytes of a pcap file in this machine's byte order. Out: address, flags and numbers
//! of each TCP segment; what is not TCP over IPv4 or IPv6 is left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};

/// Microsecond timestamps, this machine's byte order.
const MAGIC: u32 = 0xa1b2_c3d4;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A TCP segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Seconds since the epoch.
    pub time: f64,
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// First sequence number.
    pub sequence: u32,
    /// Next byte expected from the other side.
    pub acknowledgment: u32,
    /// Bytes of data.
    pub length: usize,
    flags: u8,
}

impl Segment {
    /// RST flag.
    pub fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }

    /// First segment of a connect.
    pub fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// FIN flag.
    pub fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }

    /// ACK flag; a reset without it answers a segment to a socket that is gone.
    pub fn has_ack(&self) -> bool {
        self.flags & ACK != 0
    }
}

/// All TCP segments of a file.
pub(super) fn parse(file: &[u8]) -> Result<Vec<Segment>> {
    ensure!(u32_at(file, 0)? == MAGIC, "not a pcap file of this machine");
    ensure!(
        u32_at(file, 20)? == ETHERNET,
        "not a capture of Ethernet frames"
    );
    let mut at = 24;
    let mut segments = Vec::new();
    while at < file.len() {
        let time = f64::from(u32_at(file, at)?) + f64::from(u32_at(file, at + 4)?) / 1e6;
        let captured = usize::try_from(u32_at(file, at + 8)?)?;
        let frame = file
            .get(at + 16..at + 16 + captured)
            .context("the last frame is cut")?;
        segments.extend(segment(time, frame));
        at += 16 + captured;
    }
    Ok(segments)
}

fn segment(time: f64, frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(14..)?;
    let (from, to, tcp, length) = match be16(frame, 12)? {
        0x0800 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            if *packet.get(9)? != 6 {
                return None;
            }
            let address = |at: usize| {
                let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(IpAddr::V4(Ipv4Addr::from(octets)))
            };
            let total = usize::from(be16(packet, 2)?);
            (
                address(12)?,
                address(16)?,
                packet.get(header..)?,
                total.checked_sub(header)?,
            )
        }
        0x86dd => {
            if *packet.get(6)? != 6 {
                return None;
            }
            let address = |at: usize| {
                let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(octets)))
            };
            (
                address(8)?,
                address(24)?,
                packet.get(40..)?,
                usize::from(be16(packet, 4)?),
            )
        }
        _ => return None,
    };
    let offset = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        time,
        from: SocketAddr::new(from, be16(tcp, 0)?),
        to: SocketAddr::new(to, be16(tcp, 2)?),
        sequence: be32(tcp, 4)?,
        acknowledgment: be32(tcp, 8)?,
        // A segment that the kernel did not cut yet says a total length of 0.
        length: length.saturating_sub(offset),
        flags: *tcp.get(13)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("the file is cut")?;
    Ok(u32::from_ne_bytes(word.try_into()?))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_over_ipv4_is_read() {
        let mut file = Vec::new();
        for word in [MAGIC, 0x0004_0002, 0, 0, 65535, ETHERNET] {
            file.extend(word.to_ne_bytes());
        }
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2,
        ]);
        frame.extend([
            0x23,
            0x29,
            0x23,
            0x2a,
            0,
            0,
            0,
            7,
            0,
            0,
            0,
            9,
            0x50,
            RST | ACK,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        for word in [1_669_161_600, 500_000, 54, 54] {
            file.extend(u32::to_ne_bytes(word));
        }
        file.extend(&frame);

        let segments = parse(&file).unwrap();

        let segment = segments.first().unwrap();
        assert!(segment.is_reset() && segment.has_ack() && !segment.is_syn());
        assert_eq!(segment.from, "127.0.0.1:9001".parse().unwrap());
        assert_eq!(
            (segment.sequence, segment.acknowledgment, segment.length),
            (7, 9, 0)
        );
    }
}

//! TCP segments of a capture file, as libpcap writes it.
//!
//! In: a file, pcap or pcapng. Out: its segments in the order of the file, and how many packets were none.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::data::{PacketData, get_packetdata};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// More than the largest packet of a capture, bytes.
const BUFFER: usize = 1 << 20;

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    /// As [`agent_flow::segment`] has them.
    pub(crate) flags: u8,
    /// As much of it as was captured.
    pub(crate) payload: Vec<u8>,
}

/// What is in a file.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) segments: Vec<Captured>,
    /// Packets that are no TCP, or whose headers were not captured.
    pub(crate) others: usize,
}

impl Capture {
    /// Reads it; panics where it cannot be read.
    pub(crate) fn read(path: &Path) -> Self {
        let fail = |what: &str| -> ! { panic!("{}: {what}", path.display()) };
        let file = File::open(path).unwrap_or_else(|error| fail(&error.to_string()));
        let mut reader =
            create_reader(BUFFER, file).unwrap_or_else(|error| fail(&error.to_string()));
        let mut capture = Self::default();
        let mut links = Vec::new();
        loop {
            match reader.next() {
                Ok((len, block)) => {
                    capture.take(&block, &mut links);
                    reader.consume(len);
                }
                Err(PcapError::Eof) => return capture,
                Err(PcapError::Incomplete(_)) => {
                    if reader.refill().is_err() {
                        fail("cannot be read on");
                    }
                }
                // The last packet of a file that was cut.
                Err(PcapError::UnexpectedEof) => return capture,
                Err(error) => fail(&error.to_string()),
            }
        }
    }

    fn take(&mut self, block: &PcapBlockOwned<'_>, links: &mut Vec<Linktype>) {
        let (link, bytes) = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                links.push(header.network);
                return;
            }
            PcapBlockOwned::Legacy(packet) => (links.first(), packet.data),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                links.clear();
                return;
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                links.push(interface.linktype);
                return;
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let captured = packet.data.get(..packet.caplen as usize);
                (
                    links.get(packet.if_id as usize),
                    captured.unwrap_or(packet.data),
                )
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => (links.first(), packet.data),
            PcapBlockOwned::NG(_) => return,
        };
        let segment = link.and_then(|link| segment(*link, bytes));
        self.others += usize::from(segment.is_none());
        self.segments.extend(segment);
    }
}

/// The segment in a packet.
fn segment(link: Linktype, bytes: &[u8]) -> Option<Captured> {
    let packet = match get_packetdata(bytes, link, bytes.len())? {
        PacketData::L2(frame) => LaxSlicedPacket::from_ethernet(frame).ok()?,
        PacketData::L3(protocol, packet) => {
            LaxSlicedPacket::from_ether_type(EtherType(protocol), packet)
        }
        PacketData::L4(..) | PacketData::Unsupported(_) => return None,
    };
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        return None;
    };
    use agent_flow::segment::{ACK, FIN, RST, SYN};
    let of = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    Some(Captured {
        from: (from, tcp.source_port()).into(),
        to: (to, tcp.destination_port()).into(),
        seq: tcp.sequence_number(),
        flags: of(tcp.fin(), FIN) | of(tcp.syn(), SYN) | of(tcp.rst(), RST) | of(tcp.ack(), ACK),
        payload: tcp.payload().to_vec(),
    })
}

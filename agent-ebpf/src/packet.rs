//! IP and TCP headers of a packet, read in place.

use agent_flow::segment::Segment as Tcp;
use aya_ebpf::programs::SkBuffContext;

use crate::kernel;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;
const TCP_HEADER_BYTES: usize = 20;

/// What a TCP segment's headers say.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Where the IP source address starts; the destination follows it.
    pub(crate) addresses: usize,
    /// 4 or 6.
    pub(crate) version: u8,
    /// Source port, host order.
    pub(crate) source: u16,
    /// Destination port, host order.
    pub(crate) destination: u16,
    /// What the TCP header says beside, and where the payload is.
    pub(crate) tcp: Tcp,
}

/// The headers of a TCP segment; `None` for anything else.
#[inline(always)]
pub(crate) fn parse(ctx: &SkBuffContext) -> Option<Segment> {
    let (data, end) = kernel::linear(ctx);
    if data + 20 + TCP_HEADER_BYTES > end {
        return None;
    }
    let first: u8 = kernel::linear_read(data);
    if first >> 4 == 4 {
        let protocol: u8 = kernel::linear_read(data + 9);
        // Every fragment but the first has no TCP header; sockets see whole datagrams.
        if protocol != IPPROTO_TCP {
            return None;
        }
        let ip_bytes = usize::from(first & 0x0f) << 2;
        if !(20..=60).contains(&ip_bytes) {
            return None;
        }
        return tcp(ctx, data, end, ip_bytes, 12, 4);
    }
    if first >> 4 == 6 {
        if data + 40 + TCP_HEADER_BYTES > end {
            return None;
        }
        // Extension headers before TCP are rare enough to be left out.
        let next: u8 = kernel::linear_read(data + 6);
        if next != IPPROTO_TCP {
            return None;
        }
        return tcp(ctx, data, end, 40, 8, 6);
    }
    None
}

#[inline(always)]
fn tcp(
    ctx: &SkBuffContext,
    data: usize,
    end: usize,
    ip_bytes: usize,
    addresses: usize,
    version: u8,
) -> Option<Segment> {
    let at = data + ip_bytes;
    if at + TCP_HEADER_BYTES > end {
        return None;
    }
    let source: u16 = kernel::linear_read(at);
    let destination: u16 = kernel::linear_read(at + 2);
    let seq: u32 = kernel::linear_read(at + 4);
    let ack: u32 = kernel::linear_read(at + 8);
    let data_offset: u8 = kernel::linear_read(at + 12);
    let flags: u8 = kernel::linear_read(at + 13);
    let window: u16 = kernel::linear_read(at + 14);
    let offset = ip_bytes as u32 + u32::from(data_offset >> 4) * 4;
    let total = ctx.len();
    let len = total.saturating_sub(offset);
    Some(Segment {
        addresses,
        version,
        source: u16::from_be(source),
        destination: u16::from_be(destination),
        tcp: Tcp {
            flags,
            seq: u32::from_be(seq),
            ack: u32::from_be(ack),
            window: u16::from_be(window),
            offset,
            // With GSO and GRO up to 64 KiB and more, so from the packet's length, never from the IP
            // header's length field, which is 0 in a "BIG TCP" packet.
            len,
        },
    })
}

/// What a UDP datagram's headers say.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    /// Source port, host order.
    pub(crate) source: u16,
    /// Destination port, host order.
    pub(crate) destination: u16,
    /// Where the payload starts, from the IP header.
    pub(crate) offset: u32,
}

/// The headers of a UDP datagram; `None` for anything else.
#[inline(always)]
pub(crate) fn datagram(ctx: &SkBuffContext) -> Option<Datagram> {
    let (data, end) = kernel::linear(ctx);
    if data + 20 + UDP_HEADER_BYTES > end {
        return None;
    }
    let first: u8 = kernel::linear_read(data);
    let protocol_v4: u8 = kernel::linear_read(data + 9);
    let protocol_v6: u8 = kernel::linear_read(data + 6);
    // IP options are rare enough to be left out: a datagram with them is not looked at.
    let ip_bytes = if first == 0x45 && protocol_v4 == IPPROTO_UDP {
        20
    } else if first >> 4 == 6 && protocol_v6 == IPPROTO_UDP {
        40
    } else {
        return None;
    };
    let at = data + ip_bytes;
    if at + UDP_HEADER_BYTES > end {
        return None;
    }
    let source: u16 = kernel::linear_read(at);
    let destination: u16 = kernel::linear_read(at + 2);
    Some(Datagram {
        source: u16::from_be(source),
        destination: u16::from_be(destination),
        offset: (ip_bytes + UDP_HEADER_BYTES) as u32,
    })
}

/// Source and destination address, IPv4 as v4-mapped.
#[inline(always)]
pub(crate) fn addresses(
    ctx: &SkBuffContext,
    segment: &Segment,
    source: &mut [u8; 16],
    destination: &mut [u8; 16],
) {
    let at = segment.addresses as u32;
    if segment.version == 4 {
        let mut pair = [0u8; 8];
        kernel::load(ctx, at, &mut pair, 8);
        map_v4([pair[0], pair[1], pair[2], pair[3]], source);
        map_v4([pair[4], pair[5], pair[6], pair[7]], destination);
    } else {
        kernel::load(ctx, at, source, 16);
        kernel::load(ctx, at + 16, destination, 16);
    }
}

/// Writes an IPv4 address as v4-mapped (RFC 4291, 2.5.5.2).
#[inline(always)]
pub(crate) fn map_v4(address: [u8; 4], to: &mut [u8; 16]) {
    *to = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, address[0], address[1], address[2], address[3],
    ];
}

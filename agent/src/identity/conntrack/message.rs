//! What ctnetlink says of connections: bytes to tuples.
//!
//! Formats are those of include/uapi/linux/netlink.h, netfilter/nfnetlink.h and
//! netfilter/nfnetlink_conntrack.h. Numbers of headers are in the host's order, those of tuples
//! in the network's. What is not read is skipped: kernels add attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// And of `struct nfgenmsg` behind it.
const FAMILY: usize = 4;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Of an attribute's type, without the flags for nesting and byte order.
const TYPE_MASK: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NFNL_SUBSYS_CTNETLINK, and IPCTNL_MSG_CT_NEW or IPCTNL_MSG_CT_GET.
const CONNECTION: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_ZONE: u16 = 3;
pub(super) const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// TCP in CTA_PROTO_NUM.
pub(super) const TCP: u8 = 6;

/// Where the attributes of a message begin, bytes.
pub(super) const ATTRIBUTES: usize = HEADER + FAMILY;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A TCP connection: what its first sender sends, and what is sent back. They are each other's
    /// reverse where nothing is translated.
    Connection { original: Tuple, reply: Tuple },
    /// A connection of another protocol.
    Other,
    /// An answer is complete.
    Done,
    /// A question was refused, errno; 0 is a confirmation.
    Refused(i32),
    /// None of these.
    Unreadable,
}

/// The question for all connections that are tracked.
pub(super) fn all_connections() -> [u8; ATTRIBUTES] {
    let mut bytes = [0; ATTRIBUTES];
    let fields: [(usize, &[u8]); 3] = [
        (0, &20_u32.to_ne_bytes()),
        (4, &GET.to_ne_bytes()),
        (6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes()),
    ];
    for (at, field) in fields {
        bytes[at..at + field.len()].copy_from_slice(field);
    }
    bytes
}

/// What the messages of a datagram say, in order.
pub(super) fn read(mut datagram: &[u8]) -> impl Iterator<Item = Told> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let Some((kind, body, rest)) = split_message(datagram) else {
            datagram = &[];
            return Some(Told::Unreadable);
        };
        datagram = rest;
        Some(told(kind, body))
    })
}

/// Type and body of the first message, and what is behind it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, rest))
}

fn told(kind: u16, body: &[u8]) -> Told {
    match kind {
        NLMSG_DONE => Told::Done,
        NLMSG_ERROR => match body.first_chunk() {
            Some(error) => Told::Refused(i32::from_ne_bytes(*error).saturating_neg()),
            None => Told::Unreadable,
        },
        CONNECTION => body
            .get(FAMILY..)
            .and_then(connection)
            .unwrap_or(Told::Unreadable),
        _ => Told::Unreadable,
    }
}

fn connection(attributes: &[u8]) -> Option<Told> {
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let reply = attribute(attributes, CTA_TUPLE_REPLY)?;
    let protocol = attribute(original, CTA_TUPLE_PROTO)?;
    if *attribute(protocol, CTA_PROTO_NUM)?.first()? != TCP {
        return Some(Told::Other);
    }
    // In another zone the same addresses are somebody else's.
    let is_elsewhere = attribute(attributes, CTA_ZONE).is_some()
        || [original, reply]
            .iter()
            .any(|tuple| attribute(tuple, CTA_TUPLE_ZONE).is_some());
    if is_elsewhere {
        return Some(Told::Other);
    }
    Some(Told::Connection {
        original: tuple(original)?,
        reply: tuple(reply)?,
    })
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let addresses = attribute(attributes, CTA_TUPLE_IP)?;
    let ports = attribute(attributes, CTA_TUPLE_PROTO)?;
    let end = |v4, v6, port| {
        let ip = address(addresses, v4, v6)?;
        let port = attribute(ports, port)?.first_chunk()?;
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    };
    Some(Tuple {
        from: end(CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?,
        to: end(CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?,
    })
}

fn address(attributes: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    if let Some(bytes) = attribute(attributes, v4) {
        return Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into());
    }
    let bytes = attribute(attributes, v6)?;
    Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into())
}

/// The first attribute of this type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(ATTRIBUTE..length)?;
        if kind & TYPE_MASK == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::{Strategy, any, prop};
    use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    /// Of a connection from 10.96.0.1:54552 to 10.96.0.11:80, which leads to 127.0.0.1:8081, as
    /// Linux 6.18 told it on a little-endian machine.
    #[cfg(target_endian = "little")]
    const TOLD: &str = "c4000000000100060000000000000000020000003400018014000180080001000a6000010\
        80002000a60000b1c000280050001000600000006000200d518000006000300005000003400028014000180080001\
        007f000001080002000a6000011c0002800500010006000000060002001f91000006000300d518000008000c00959\
        0348208000300000001a80800070000000078300004802c0001800500010001000000050002000a00000005000300\
        0000000006000400030000000600050000000000";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_of(kind: u16, Tuple { from, to }: Tuple, protocol: u8) -> Vec<u8> {
        let ip = |address: SocketAddr, v4, v6| match address.ip() {
            IpAddr::V4(ip) => attribute_of(v4, &ip.octets()),
            IpAddr::V6(ip) => attribute_of(v6, &ip.octets()),
        };
        let addresses = [
            ip(from, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
            ip(to, CTA_IP_V4_DST, CTA_IP_V6_DST),
        ];
        let ports = [
            attribute_of(CTA_PROTO_NUM, &[protocol]),
            attribute_of(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes()),
            attribute_of(CTA_PROTO_DST_PORT, &to.port().to_be_bytes()),
        ];
        let value = [
            attribute_of(CTA_TUPLE_IP, &addresses.concat()),
            attribute_of(CTA_TUPLE_PROTO, &ports.concat()),
        ];
        attribute_of(kind | 0x8000, &value.concat())
    }

    /// The same message of a connection in another zone.
    pub(in super::super) fn in_zone(message: &[u8], zone: u16) -> Vec<u8> {
        let mut bytes = message.to_vec();
        bytes.extend(attribute_of(CTA_ZONE, &zone.to_be_bytes()));
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    pub(in super::super) fn message(original: Tuple, reply: Tuple, protocol: u8) -> Vec<u8> {
        let body = [
            vec![2, 0, 0, 0],
            attribute_of(99, b"new"),
            tuple_of(CTA_TUPLE_ORIG, original, protocol),
            tuple_of(CTA_TUPLE_REPLY, reply, protocol),
        ]
        .concat();
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(CONNECTION.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_a_kernel_told_is_read() {
        let text: Vec<u8> = TOLD.bytes().collect();
        let digits = text
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = digits
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect();

        let told: Vec<Told> = read(&bytes).collect();

        let original = Tuple {
            from: at("10.96.0.1:54552"),
            to: at("10.96.0.11:80"),
        };
        let reply = Tuple {
            from: at("127.0.0.1:8081"),
            to: at("10.96.0.1:54552"),
        };
        assert_eq!(told, [Told::Connection { original, reply }]);
    }

    #[test]
    fn ends_and_refusals_are_read_and_what_is_cut_is_not() {
        let of = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(HEADER, 0);
            bytes.extend(body);
            bytes
        };
        for (bytes, expected) in [
            (of(NLMSG_DONE, &[0; 4]), Told::Done),
            (of(NLMSG_ERROR, &(-1_i32).to_ne_bytes()), Told::Refused(1)),
            (
                of(NLMSG_ERROR, &i32::MIN.to_ne_bytes()),
                Told::Refused(i32::MAX),
            ),
            (of(NLMSG_ERROR, &[]), Told::Unreadable),
            (of(CONNECTION, &[]), Told::Unreadable),
            (of(77, &[0; 4]), Told::Unreadable),
            (vec![0; 16], Told::Unreadable),
            (vec![20, 0], Told::Unreadable),
        ] {
            assert_eq!(read(&bytes).collect::<Vec<_>>(), [expected], "{bytes:?}");
        }
        assert_eq!(read(&[]).count(), 0);
    }

    fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
        let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
        let ips = prop_oneof![v4, v6];
        (ips, any::<(u16, u16)>()).prop_map(|((a, b), (p, q)): ((IpAddr, IpAddr), _)| {
            (SocketAddr::new(a, p), SocketAddr::new(b, q))
        })
    }

    proptest! {
        #[test]
        fn any_tuples_are_read_as_they_were_written(one in ends(), other in ends()) {
            let [original, reply] = [one, other].map(|(from, to)| Tuple { from, to });
            let bytes = [message(original, reply, TCP), message(reply, original, 17)].concat();

            let told: Vec<Told> = read(&bytes).collect();

            prop_assert_eq!(told, vec![Told::Connection { original, reply }, Told::Other]);
        }

        #[test]
        fn any_bytes_are_read_to_their_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            one in ends(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assert!(read(&bytes).count() <= bytes.len());
            let (from, to) = one;
            let tuple = Tuple { from, to };
            let mut changed = message(tuple, tuple, TCP);
            for (at, value) in changes {
                let at = at.index(changed.len());
                changed[at] = value;
            }
            changed.truncate(cut.index(changed.len()) + 1);
            prop_assert!(read(&changed).count() <= changed.len());
        }
    }
}

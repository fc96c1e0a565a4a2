//! A line to a namespace that takes its time, in both directions, and may be a rough one.
//!
//! In: a namespace and a delay. Out: two addresses whose packets arrive that much later, unchanged,
//! and in their order unless [`Rough`] says otherwise. It is two TUN interfaces and four threads that carry packets from one to the
//! other: what TCP does at either end is the kernel's doing, as over a real distance. A relay of
//! TCP would not do, for each of its ends would be acknowledged at once, and what crosses on the
//! way is what tests need. netem would do, where the kernel has it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::netns::{Netns, pair_of_addresses};
use crate::process::output_of;

/// The request that makes an interface of a descriptor (linux/if_tun.h, since Linux 2.4).
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// IP packets, without a header before them: `IFF_TUN | IFF_NO_PI`.
const TUN_OF_BARE_PACKETS: i16 = 0x1001;

/// Room for a packet of the usual MTU, 1500 bytes, and more.
const PACKET_BYTES: usize = 4096;

/// How often the threads look whether the line is still wanted. Longer: tests end later.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Packets of a burst that arrive from back to front, at most, on a line that does so.
const BURST: usize = 8;
/// Silence that ends a burst. Shorter: what was written at once arrives in order on a busy machine.
const BURST_ENDS: Duration = Duration::from_millis(50);

/// A line on which some packets do not fare well, chosen by chance.
#[derive(Clone, Copy, Debug)]
pub struct Rough {
    /// What the choice begins with. The same seed chooses the same packets of the same traffic.
    pub seed: u64,
    /// Of a thousand packets, so many do not arrive.
    pub lost: u16,
    /// So many arrive twice.
    pub doubled: u16,
    /// So many come behind others that left later,
    pub late: u16,
    /// by this much.
    pub late_by: Duration,
}

/// How packets of one direction fare.
struct Way {
    delay: Duration,
    rough: Option<(Rough, Rng)>,
}

/// The line. It is gone when dropped.
#[derive(Debug)]
pub struct DelayLine {
    /// Address of the near end.
    pub near: IpAddr,
    /// Address of the namespace's end.
    pub far: IpAddr,
    cut: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Gives what arrives to an end.
type Give = fn(&File, &Receiver<(Instant, Vec<u8>)>);

/// `struct ifreq` (linux/if.h) as TUNSETIFF reads and writes it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

impl DelayLine {
    /// Joins the host to `netns`; a packet takes `delay` to the other end.
    ///
    /// # Panics
    /// There is no /dev/net/tun, or it is not for this user.
    #[track_caller]
    pub fn to(netns: &Netns, delay: Duration) -> Self {
        Self::between(None, netns, delay, None)
    }

    /// Joins `near`, or the host, to `netns`; a packet takes `delay` to the other end, if it gets
    /// there.
    ///
    /// # Panics
    /// As [`DelayLine::to`].
    #[track_caller]
    pub fn between(
        near: Option<&Netns>,
        netns: &Netns,
        delay: Duration,
        rough: Option<Rough>,
    ) -> Self {
        Self::carried(near, netns, delay, rough, give)
    }

    /// Joins the host to `netns`; packets that leave at once arrive the last one first.
    ///
    /// # Panics
    /// As [`DelayLine::to`].
    #[track_caller]
    pub fn reversing(netns: &Netns) -> Self {
        Self::carried(None, netns, Duration::ZERO, None, give_reversed)
    }

    #[track_caller]
    fn carried(
        near: Option<&Netns>,
        netns: &Netns,
        delay: Duration,
        rough: Option<Rough>,
        give: Give,
    ) -> Self {
        let near_netns = near;
        let (number, [near, far]) = pair_of_addresses();
        let process = std::process::id();
        let (near_name, far_name) = (
            format!("w{process}n{number}"),
            format!("w{process}f{number}"),
        );
        let near_end = Arc::new(tun(&near_name));
        let far_end = Arc::new(tun(&far_name));
        let ip = |words: String| output_of(Command::new("ip").args(words.split_whitespace()));
        let ends = [
            (near_netns, &near_name, near, far),
            (Some(netns), &far_name, far, near),
        ];
        for (netns, name, own, other) in ends {
            let address = format!("addr add {own} peer {other} dev {name}");
            let up = format!("link set {name} up");
            match netns {
                Some(netns) => {
                    // Made here and moved, for a descriptor opened inside would keep the
                    // namespace alive.
                    ip(format!("link set {name} netns {}", netns.name()));
                    netns.ip(&address);
                    netns.ip(&up);
                }
                None => {
                    ip(address);
                    ip(up);
                }
            }
        }
        let cut = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (direction, from, to) in [(0, &near_end, &far_end), (1, &far_end, &near_end)] {
            let (sender, receiver) = channel();
            let (from, to, cut) = (Arc::clone(from), Arc::clone(to), Arc::clone(&cut));
            let rough = rough.map(|rough| {
                let seed = rough.seed.wrapping_mul(2).wrapping_add(direction);
                (rough, Rng::with_seed(seed))
            });
            let way = Way { delay, rough };
            threads.push(std::thread::spawn(move || {
                take(&from, way, &sender, &cut);
            }));
            threads.push(std::thread::spawn(move || give(&to, &receiver)));
        }
        Self {
            near,
            far,
            cut,
            threads,
        }
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ended = thread.join();
        }
    }
}

/// Makes an interface that lives as long as what is given back.
#[track_caller]
fn tun(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap_or_else(|error| panic!("cannot open /dev/net/tun: {error}"));
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: TUN_OF_BARE_PACKETS,
        rest: [0; 22],
    };
    assert!(name.len() < request.name.len(), "{name} is too long a name");
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which `request` is, and keeps no pointer.
    let made = unsafe {
        ioctl(
            &file,
            Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request),
        )
    };
    made.unwrap_or_else(|error| panic!("cannot make the interface {name}: {error}"));
    file
}

impl Way {
    /// How much later a packet arrives, once for each time it does.
    fn arrivals(&mut self) -> impl Iterator<Item = Duration> {
        let Self { delay, rough } = self;
        let (mut times, mut after) = (1, *delay);
        if let Some((rough, rng)) = rough {
            let mut one_of = |wanted: u16| rng.u16(..1000) < wanted;
            let (lost, doubled) = (one_of(rough.lost), one_of(rough.doubled));
            times = match (lost, doubled) {
                (true, _) => 0,
                (false, true) => 2,
                (false, false) => 1,
            };
            if one_of(rough.late) {
                after += rough.late_by;
            }
        }
        std::iter::repeat_n(after, times)
    }
}

/// Takes what leaves at one end, until the line is cut.
fn take(mut end: &File, mut way: Way, onward: &Sender<(Instant, Vec<u8>)>, cut: &AtomicBool) {
    let mut packet = [0; PACKET_BYTES];
    while !cut.load(Ordering::Relaxed) {
        let mut wait = [PollFd::new(end, PollFlags::IN)];
        if !poll(&mut wait, Some(&LOOK)).is_ok_and(|ready| ready > 0) {
            continue;
        }
        // An error: the interface is down, or its namespace is gone.
        let Ok(length) = end.read(&mut packet) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let now = Instant::now();
        let bytes = packet.get(..length).unwrap_or_default();
        for after in way.arrivals() {
            if onward.send((now + after, bytes.to_vec())).is_err() {
                return;
            }
        }
    }
}

/// Gives it to the other end when it is due, until nobody takes any more.
fn give(mut end: &File, arriving: &Receiver<(Instant, Vec<u8>)>) {
    let mut number = 0_u64;
    // The first due first, and of those the first to leave.
    let mut under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>> = BinaryHeap::new();
    loop {
        let next = match under_way.peek() {
            None => arriving.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse((due, ..))) => {
                arriving.recv_timeout(due.saturating_duration_since(Instant::now()))
            }
        };
        match next {
            Ok((due, packet)) => {
                number += 1;
                under_way.push(Reverse((due, number, packet)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while under_way
            .peek()
            .is_some_and(|Reverse((due, ..))| *due <= Instant::now())
            && let Some(Reverse((_, _, packet))) = under_way.pop()
        {
            // As on any line, a packet that cannot be delivered is lost.
            let _delivered = end.write(&packet);
        }
    }
}

/// Gives it to the other end burst by burst, from back to front.
fn give_reversed(mut end: &File, arriving: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((_, first)) = arriving.recv() {
        let mut burst = vec![first];
        while burst.len() < BURST
            && let Ok((_, next)) = arriving.recv_timeout(BURST_ENDS)
        {
            burst.push(next);
        }
        for packet in burst.iter().rev() {
            let _delivered = end.write(packet);
        }
    }
}

// What the kernel reads and writes.
const _: () = assert!(size_of::<InterfaceRequest>() == 40);

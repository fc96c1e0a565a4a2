//! Whose password is hashed next: one at a time, and each address as often as any other.
//!
//! In: the addresses of those who wait. Out: a [`Turn`] for one of them, the next one's when it is
//! dropped. Who asks often waits behind himself, and of too many that wait the last one of the
//! address with most of them gives way: guessing from one address delays another by a turn or two.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// The line.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    line: Mutex<Line>,
}

/// To be dropped when it is the next one's.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

#[derive(Debug, Default)]
struct Line {
    /// Whose turn it is, and of which round it is.
    holder: Option<(IpAddr, u64)>,
    /// Rounds that began.
    round: u64,
    /// Who came first is first.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    who: IpAddr,
    /// In a round each address has one turn.
    round: u64,
    call: oneshot::Sender<Turn>,
}

impl Turns {
    /// So many may wait.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            line: Mutex::default(),
        })
    }

    /// A turn; none where too many wait, or it does not come soon enough.
    pub(super) async fn take(self: &Arc<Self>, who: IpAddr, patience: Duration) -> Option<Turn> {
        let call = self.enter(network(who))?;
        // Not called within that time, or another one has the place.
        timeout(patience, call).await.ok()?.ok()
    }

    fn enter(self: &Arc<Self>, who: IpAddr) -> Option<oneshot::Receiver<Turn>> {
        let (call, called) = oneshot::channel();
        let mut line = self.lock();
        if line.holder.is_none() {
            line.holder = Some((who, line.round));
            drop(line);
            // The receiver is below: it arrives.
            let _ = call.send(Turn(Arc::clone(self)));
            return Some(called);
        }
        line.waiting.retain(|waiting| !waiting.call.is_closed());
        if line.waiting.len() >= self.most {
            let leaves = line.busiest(who)?;
            line.waiting.remove(leaves);
        }
        let round = line.round_of(who);
        line.waiting.push_back(Waiting { who, round, call });
        Some(called)
    }

    /// Calls the next one.
    fn pass_on(self: &Arc<Self>) {
        let next = {
            let mut line = self.lock();
            let next = line.next();
            line.holder = next.as_ref().map(|next| (next.who, next.round));
            next
        };
        if let Some(Waiting { call, .. }) = next {
            // Who left does not take it: dropped, it is the next one's.
            let _ = call.send(Turn(Arc::clone(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Behind the turns that this address has or waits for.
    fn round_of(&self, who: IpAddr) -> u64 {
        let waiting = self
            .waiting
            .iter()
            .map(|waiting| (waiting.who, waiting.round));
        let own = waiting
            .chain(self.holder)
            .filter(|(other, _)| *other == who);
        own.map(|(_, round)| round + 1).max().unwrap_or(self.round)
    }

    /// The first of the earliest round.
    fn next(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.iter().enumerate();
        let (at, round) = waiting
            .map(|(at, waiting)| (at, waiting.round))
            .min_by_key(|(at, round)| (*round, *at))?;
        self.round = round;
        self.waiting.remove(at)
    }

    /// Who gives way to this one: the last of the address with most, unless it has hardly more.
    fn busiest(&self, who: IpAddr) -> Option<usize> {
        let count = |who| {
            self.waiting
                .iter()
                .filter(|waiting| waiting.who == who)
                .count()
        };
        let counts = self.waiting.iter().enumerate();
        let (most, at) = counts.map(|(at, waiting)| (count(waiting.who), at)).max()?;
        (most > count(who) + 1).then_some(at)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// A host has a whole /64 of IPv6 to ask from.
fn network(who: IpAddr) -> IpAddr {
    match who.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Turn, Turns, network};
    use tokio::sync::oneshot::Receiver;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    /// Who of these is called now.
    fn called(line: &mut Vec<(u8, Receiver<Turn>)>) -> Option<(u8, Turn)> {
        let found = line
            .iter_mut()
            .enumerate()
            .find_map(|(at, (_, call))| call.try_recv().ok().map(|turn| (at, turn)));
        found.map(|(at, turn)| (line.remove(at).0, turn))
    }

    #[test]
    fn each_address_has_its_turn_however_often_another_asks() {
        let turns = Turns::new(8);
        let mut line: Vec<(u8, Receiver<Turn>)> = [1, 1, 1, 1, 2, 2, 3]
            .into_iter()
            .map(|who| (who, turns.enter(address(who)).unwrap()))
            .collect();

        let mut order = Vec::new();
        while let Some((who, turn)) = called(&mut line) {
            order.push(who);
            drop(turn);
        }

        assert_eq!(order, [1, 2, 3, 1, 2, 1, 1]);
        assert!(turns.lock().holder.is_none());
    }

    #[test]
    fn the_last_of_the_busiest_gives_way() {
        let turns = Turns::new(3);
        let mut first = turns.enter(address(1)).unwrap();
        let turn = first.try_recv().unwrap();
        let mut crowd: Vec<_> = (0..3).map(|_| turns.enter(address(1)).unwrap()).collect();
        assert!(turns.enter(address(1)).is_none(), "its own do not give way");

        let mut other = turns.enter(address(2)).unwrap();

        assert!(crowd.pop().unwrap().try_recv().is_err());
        drop(turn);
        assert!(other.try_recv().is_ok());
    }

    #[test]
    fn who_left_is_passed_over() {
        let turns = Turns::new(2);
        let mut first = turns.enter(address(1)).unwrap();
        let turn = first.try_recv().unwrap();
        drop(turns.enter(address(2)));
        drop(turns.enter(address(3)));
        let mut last = turns.enter(address(4)).unwrap();
        drop(turn);
        drop(last.try_recv().unwrap());
        assert!(turns.lock().holder.is_none());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_host() {
        let read = |text: &str| network(text.parse().unwrap());
        assert_eq!(read("2001:db8::1"), read("2001:db8::ffff:2"));
        assert_ne!(read("2001:db8::1"), read("2001:db8:0:1::1"));
        assert_eq!(read("::ffff:10.0.0.1"), read("10.0.0.1"));
        assert_ne!(read("10.0.0.1"), read("10.0.0.2"));
    }
}

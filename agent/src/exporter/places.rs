//! Who may be connected: so many at a time, and who gives way when more come.
//!
//! In: the addresses of those who connect. Out: a [`Place`] for each; the one that has to go for
//! it is told. Of the address with the most connections the oldest goes, first of those that
//! still send their request, then of those that take their answer. So whoever opens connections
//! and lets them hang takes places from himself, and a scraper, which is done within
//! milliseconds, gets its own. An answer that is being made is finished, unless someone comes
//! from where fewer are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A request is being sent, or TLS agreed on.
const ASKING: u8 = 0;
/// An answer is being made.
const MAKING: u8 = 1;
/// It is being taken.
const TAKING: u8 = 2;
/// It has no end of its own; such places have a bound of their own.
const STREAMING: u8 = 3;

/// The bound.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    /// Oldest first.
    taken: Mutex<Vec<Arc<Seat>>>,
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    seat: Arc<Seat>,
    places: Arc<Places>,
}

#[derive(Debug)]
struct Seat {
    who: IpAddr,
    phase: AtomicU8,
    gone: Notify,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::new(Vec::new()),
        })
    }

    /// A place, if there is one, and whether someone had to go.
    pub(super) fn take(self: &Arc<Self>, who: IpAddr) -> (Option<Place>, bool) {
        let seat = Arc::new(Seat {
            who,
            phase: AtomicU8::new(ASKING),
            gone: Notify::new(),
        });
        let mut taken = self.lock();
        let mut someone_left = false;
        if taken.len() >= self.most {
            let Some(at) = to_leave(&taken, who) else {
                return (None, true);
            };
            // Its task ends as soon as it runs; the place is counted as free already.
            taken.remove(at).gone.notify_one();
            someone_left = true;
        }
        taken.push(Arc::clone(&seat));
        let place = Place {
            seat,
            places: Arc::clone(self),
        };
        (Some(place), someone_left)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of them, by its number, for one who comes from there.
fn to_leave(taken: &[Arc<Seat>], who: IpAddr) -> Option<usize> {
    let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
    let phase = |seat: &Seat| seat.phase.load(Ordering::Relaxed);
    for seat in taken.iter().filter(|seat| phase(seat) != STREAMING) {
        *by_address.entry(seat.who).or_default() += 1;
    }
    let most = by_address.values().copied().max()?;
    let of_the_most = |seat: &Seat| by_address.get(&seat.who) == Some(&most);
    let oldest = |wanted| {
        let fits = |seat: &Arc<Seat>| phase(seat) == wanted && of_the_most(seat);
        taken.iter().position(fits)
    };
    let is_one_of_many = by_address.get(&who) == Some(&most);
    oldest(ASKING)
        .or_else(|| oldest(TAKING))
        .or_else(|| oldest(MAKING).filter(|_| !is_one_of_many))
}

impl Place {
    /// The request is there.
    pub(super) fn asked(&self) {
        self.seat.phase.store(MAKING, Ordering::Relaxed);
    }

    /// The answer is there.
    pub(super) fn answered(&self) {
        if !self.is_streaming() {
            self.seat.phase.store(TAKING, Ordering::Relaxed);
        }
    }

    /// Who is connected.
    pub(super) fn who(&self) -> IpAddr {
        self.seat.who
    }

    /// The answer has no end.
    pub(super) fn streams(&self) {
        self.seat.phase.store(STREAMING, Ordering::Relaxed);
    }

    /// Whether the answer has no end.
    pub(super) fn is_streaming(&self) -> bool {
        self.seat.phase.load(Ordering::Relaxed) == STREAMING
    }

    /// Ready when the place is another's.
    pub(super) async fn lost(&self) {
        self.seat.gone.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::{Place, Places};

    fn host(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
    }

    async fn has_to_go(place: &Place) -> bool {
        timeout(Duration::from_millis(1), place.lost())
            .await
            .is_ok()
    }

    fn take(places: &Arc<Places>, who: IpAddr) -> Place {
        places.take(who).0.unwrap()
    }

    #[tokio::test]
    async fn whoever_has_most_gives_way_and_first_who_has_not_asked() {
        let places = Places::new(4);
        let scraper = take(&places, host(1));
        let asked = take(&places, host(2));
        asked.asked();
        let first = take(&places, host(2));
        let second = take(&places, host(2));

        let (_new, someone_left) = places.take(host(3));

        assert!(someone_left);
        assert!(has_to_go(&first).await);
        for stays in [&scraper, &asked, &second] {
            assert!(!has_to_go(stays).await);
        }
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_give_way_and_streams_do_not() {
        let places = Places::new(2);
        let stream = take(&places, host(1));
        stream.streams();
        let slow = take(&places, host(1));
        slow.asked();
        slow.answered();

        let _new = take(&places, host(2));

        assert!(has_to_go(&slow).await);
        assert!(!has_to_go(&stream).await);
    }

    #[tokio::test]
    async fn an_answer_that_is_being_made_is_not_lost_to_one_more_of_the_same() {
        let places = Places::new(2);
        let [first, second] = [take(&places, host(1)), take(&places, host(1))];
        first.asked();
        second.asked();

        assert!(matches!(places.take(host(1)), (None, true)));
        assert!(!has_to_go(&first).await);

        let _other = take(&places, host(2));
        assert!(has_to_go(&first).await);
    }

    #[test]
    fn a_place_is_free_again_when_dropped() {
        let places = Places::new(1);
        for _ in 0..3 {
            let (_place, someone_left) = places.take(host(1));
            assert!(!someone_left);
        }
    }
}

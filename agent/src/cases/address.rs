//! Nobody answers at the address, and this host knows more of it: who listens on the same port
//! elsewhere, who was there before, and how that ended.

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::{Ended, Nanos};

use super::{Found, Kind, Scene};
use crate::identity::Unconnected;
use crate::identity::listeners::{Around, Listener, Owner, Relation};
use crate::identity::served::{Before, Gone};

/// How long after its process started a server is still on its way to listen, ns. Longer: a firewall
/// that resets passes for a slow start. Shorter: the other way round.
const START: Nanos = 120_000_000_000;

const NOBODY_THERE: &[Cause] = &[
    Cause::ConnectRefused,
    Cause::ConnectTimeout,
    Cause::HostUnreachable,
];

pub(super) const MOVED: Kind = Kind {
    name: "address_moved",
    causes: NOBODY_THERE,
    evidence: "The address answered before; the process that answered there has ended; and the same program, started since, listens on the same port in another network namespace of this host, has not answered this proxy there, and no other one does. A guess: two services may be of one program.",
    meaning: "{asked} answered until {answered_before_seconds} s before, and a {program} that was started since listens at {moved_to}: if that is the same service, the proxy uses an address from before.",
    fix: "If it is the same service, reload the proxy, so that it resolves the name again. So that it follows the next time: nginx `resolver` and a variable in proxy_pass, HAProxy `resolvers`, or a fixed address.",
    find: moved,
};

pub(super) const LOOPBACK_ONLY: Kind = Kind {
    name: "listens_on_loopback_only",
    causes: &[Cause::ConnectRefused],
    evidence: "{asked} is an address of this host or of a network namespace on it, and there its port is listened on at a loopback address and at no other.",
    meaning: "The port is listened on at {listens_at} only, where {asked} is not: whoever is not in the same network namespace cannot reach it.",
    fix: "Have the server listen at {asked} or at all addresses (0.0.0.0 or [::]) instead of {listens_at}.",
    find: loopback_only,
};

pub(super) const OTHER_ADDRESS: Kind = Kind {
    name: "listens_at_another_address",
    causes: &[Cause::ConnectRefused],
    evidence: "{asked} is an address of this host or of a network namespace on it, and there its port is listened on, but at another address.",
    meaning: "The port is listened on at {listens_at}, not at {asked}.",
    fix: "Have the proxy use {listens_at}, or the server listen at {asked} as well. `localhost` is 127.0.0.1 to one program and ::1 to another: write the number.",
    find: other_address,
};

pub(super) const LISTENS_BY_NOW: Kind = Kind {
    name: "listens_by_now",
    causes: &[Cause::ConnectRefused],
    evidence: "A moment after the refusal {asked} is listened on, by a process that started less than two minutes before.",
    meaning: "{asked} is listened on by now: the server was on its way to start when the proxy asked.",
    fix: "Take the server out of the pool before it restarts, and put it in when it listens: a readiness check, or a socket that is held open across restarts.",
    find: listens_by_now,
};

pub(super) const OTHER_NETWORK: Kind = Kind {
    name: "listens_in_another_network",
    causes: &[Cause::ConnectRefused],
    evidence: "{asked} is an address of this host or of a network namespace on it, never answered since the agent started, and nobody listens on its port there; in another network namespace somebody does. Strong for a loopback address and a single such listener.",
    meaning: "Nobody listens at {asked} in the proxy's network; the port is listened on in another network namespace, at {listens_at}.",
    fix: "Have the proxy use the address or name of that container or namespace ({reached_at}), put both into one network, or publish the port. 127.0.0.1 in a container is the container itself.",
    find: other_network,
};

pub(super) const SERVER_ENDED: Kind = Kind {
    name: "server_ended",
    causes: NOBODY_THERE,
    evidence: "The address answered before, and the process that answered there was seen from its own end of a connection and has ended since.",
    meaning: "{asked} answered until {answered_before_seconds} s before, and the process that was there, {program} (pid {pid}), has ended.",
    fix: "See why {program} ended and was not started again: its own log, and `journalctl` or `docker ps -a` of that time.",
    find: server_ended,
};

pub(super) const ANSWERED_BEFORE: Kind = Kind {
    name: "answered_before",
    causes: NOBODY_THERE,
    evidence: "The address answered a proxy of the same network namespace before; who was there is not known, or still runs.",
    meaning: "{asked} answered until {answered_before_seconds} s before, so that the address was right then.",
    fix: "See whether the server stopped or restarts. If its name leads to another address by now, reload the proxy: nginx and HAProxy resolve names once, at their start.",
    find: answered_before,
};

fn moved(scene: &Scene<'_>) -> Option<Found> {
    let (unconnected, before) = known_before(scene)?;
    let gone = before.gone.as_ref()?;
    let around = unconnected.around.as_ref()?;
    if around.of(Relation::Covers).next().is_some() {
        return None;
    }
    let is_successor = |listener: &&Listener| {
        let owner = listener.owner.as_ref();
        let is_like =
            |owner: &Owner| owner.program == gone.program && owner.started > before.answered;
        owner.is_some_and(is_like) && !listener.has_answered
    };
    let elsewhere = || around.of(Relation::OtherNetwork).filter(is_successor);
    let successor = elsewhere().next()?;
    let to = successor.reached();
    // The same server at several addresses is one.
    if elsewhere().any(|other| other.owner != successor.owner) {
        return None;
    }
    let owner = successor.owner.as_ref()?;
    Some(
        Found::new(Certainty::Guess)
            .fact("asked", scene.asked())
            .fact("answered_before_seconds", since(scene, before.answered))
            .fact("program", &owner.program)
            .fact("moved_to", to)
            .more("moved_to_container", container(owner), |id| {
                format!("It is in container {id}.")
            })
            .ended(scene, gone),
    )
}

fn loopback_only(scene: &Scene<'_>) -> Option<Found> {
    let found = beside(scene)?;
    let only_loopback = found.0.address.ip().is_loopback() && !scene.is_loopback();
    only_loopback.then_some(found.1)
}

fn other_address(scene: &Scene<'_>) -> Option<Found> {
    Some(beside(scene)?.1)
}

/// Somebody listens on the port in the network of the address, and nobody at the address. One on
/// loopback comes last: it can be reached by fewer.
fn beside<'a>(scene: &Scene<'a>) -> Option<(&'a Listener, Found)> {
    let around = scene.peer.unconnected.as_deref()?.around.as_ref()?;
    if !around.is_here || around.of(Relation::Covers).next().is_some() {
        return None;
    }
    let beside = || around.of(Relation::SameNetwork);
    let listener = beside()
        .find(|listener| !listener.address.ip().is_loopback())
        .or(beside().next())?;
    let found = Found::new(Certainty::Strong)
        .fact("asked", scene.asked())
        .fact("listens_at", listener.address)
        .held(scene, listener);
    Some((listener, found))
}

fn listens_by_now(scene: &Scene<'_>) -> Option<Found> {
    let unconnected = scene.peer.unconnected.as_deref()?;
    let around = unconnected.around.as_ref()?;
    // A look from before the refusal says nothing of now.
    if around.looked < scene.attempt.ended {
        return None;
    }
    let listener = around.of(Relation::Covers).next()?;
    let owner = listener.owner.as_ref()?;
    (scene.attempt.ended.saturating_sub(owner.started) < START).then_some(())?;
    let found = Found::new(Certainty::Strong)
        .fact("asked", scene.asked())
        .held(scene, listener);
    let before = unconnected.before.as_ref();
    // It listened before: something on the way refuses.
    if before.is_some_and(|before| before.answered > owner.started) {
        return None;
    }
    let gone = before.and_then(|before| before.gone.as_ref());
    Some(match gone {
        Some(gone) => found.ended(scene, gone),
        None => found,
    })
}

fn other_network(scene: &Scene<'_>) -> Option<Found> {
    let unconnected = scene.peer.unconnected.as_deref()?;
    let around = unconnected.around.as_ref()?;
    // What answered there before had the right address.
    if !around.is_here
        || unconnected.before.is_some()
        || around.of(Relation::Covers).next().is_some()
    {
        return None;
    }
    let mut elsewhere = around.of(Relation::OtherNetwork);
    let listener = elsewhere.next()?;
    let is_alone = elsewhere.all(|other| other.owner == listener.owner);
    let sure = match scene.is_loopback() && is_alone {
        true => Certainty::Strong,
        false => Certainty::Guess,
    };
    Some(
        Found::new(sure)
            .fact("asked", scene.asked())
            .fact("listens_at", listener.address)
            .fact("reached_at", listener.reached())
            .held(scene, listener),
    )
}

fn server_ended(scene: &Scene<'_>) -> Option<Found> {
    let (_, before) = known_before(scene)?;
    let gone = before.gone.as_ref()?;
    Some(
        Found::new(Certainty::Strong)
            .fact("asked", scene.asked())
            .fact("answered_before_seconds", since(scene, before.answered))
            .fact("program", &gone.program)
            .fact("pid", gone.tgid)
            .ended(scene, gone),
    )
}

fn answered_before(scene: &Scene<'_>) -> Option<Found> {
    let (_, before) = known_before(scene)?;
    Some(
        Found::new(Certainty::Strong)
            .fact("asked", scene.asked())
            .fact("answered_before_seconds", since(scene, before.answered)),
    )
}

fn known_before<'a>(scene: &Scene<'a>) -> Option<(&'a Unconnected, &'a Before)> {
    let unconnected = scene.peer.unconnected.as_deref()?;
    Some((unconnected, unconnected.before.as_ref()?))
}

/// Seconds from a time to the end of the attempt.
fn since(scene: &Scene<'_>, time: Nanos) -> String {
    seconds(scene.attempt.ended.saturating_sub(time))
}

fn seconds(nanos: Nanos) -> String {
    tenths(nanos as f64 / 1e9)
}

/// A zero has no sign.
fn tenths(seconds: f64) -> String {
    let text = format!("{seconds:.1}");
    match text.as_str() {
        "-0.0" => "0.0".to_owned(),
        _ => text,
    }
}

fn container(owner: &Owner) -> Option<&str> {
    owner.container.as_deref()
}

impl Around {
    fn of(&self, relation: Relation) -> impl Iterator<Item = &Listener> {
        let all = self.listeners.iter();
        all.filter(move |listener| listener.relation == relation)
    }
}

impl Found {
    /// With who holds the listener, and since when it runs.
    fn held(mut self, scene: &Scene<'_>, listener: &Listener) -> Self {
        let Some(owner) = &listener.owner else {
            return self;
        };
        let Owner {
            tgid,
            program,
            started,
            container: _,
        } = owner;
        self = self
            .fact("listener_program", program)
            .fact("listener_pid", tgid);
        // Of a start only some ms are known: it is told to a tenth of a second.
        let ended = scene.attempt.ended;
        let before = (i128::from(ended) - i128::from(*started)) as f64 / 1e9;
        let when = match tenths(before.abs()).as_str() {
            "0.0" => "at that moment".to_owned(),
            away if before > 0.0 => format!("{away} s before"),
            away => format!("{away} s after"),
        };
        let text = format!("{program} (pid {tgid}) listens there; it was started {when}.");
        let before = Some(tenths(before));
        self.more("listener_started_before_seconds", before, |_| text)
            .more("listener_container", container(owner), |id| {
                format!("It is in container {id}.")
            })
    }

    /// With how the process ended that was there before.
    fn ended(self, scene: &Scene<'_>, gone: &Gone) -> Self {
        let container = gone.container.as_deref();
        let found = self.more("container", container, |id| {
            format!("It was in container {id}.")
        });
        let Some((how, at)) = gone.ended else {
            return found;
        };
        let ago = since(scene, at);
        let what = match how {
            Ended::Signal(signal) => format!("was killed by signal {signal}"),
            Ended::OutOfMemory => "was killed by the kernel for want of memory".to_owned(),
            Ended::Status(status) => format!("exited with status {status}"),
        };
        let who = format!("{} (pid {})", gone.program, gone.tgid);
        found
            .fact("ended_before_seconds", &ago)
            .more("ended", Some(what), |what| {
                format!("{who} {what} {ago} s before.")
            })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::cause::{Cause, Certainty, How};
    use agent_core::event::{Attempt, Failure};
    use agent_core::observation::{Ended, Nanos, Phase};

    use crate::cases::{Case, of};
    use crate::identity::listeners::{Around, Listener, Owner, Relation};
    use crate::identity::served::{Before, Gone};
    use crate::identity::{Peer, Unconnected};
    use crate::samples::{failed_attempt, upstream};

    const SECOND: Nanos = 1_000_000_000;
    const ENDED: Nanos = 1000 * SECOND;

    fn refused(asked: &str) -> Attempt {
        Attempt {
            upstream: upstream(asked),
            ended: ENDED,
            failure: Some(Failure {
                cause: Cause::ConnectRefused,
                certainty: Certainty::Proof,
                phase: Phase::Connect,
                how: How::Rst,
            }),
            ..failed_attempt()
        }
    }

    fn listener(address: &str, relation: Relation, tgid: u32, started: Nanos) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            relation,
            reached_at: None,
            owner: Some(Owner {
                tgid,
                program: Arc::from("node"),
                started,
                container: None,
            }),
            has_answered: false,
        }
    }

    fn around(listeners: Vec<Listener>) -> Around {
        Around {
            looked: ENDED + 1,
            is_here: true,
            listeners,
        }
    }

    /// The server at the address was killed 5 s before, and had answered 6 s before.
    fn killed() -> Before {
        Before {
            answered: ENDED - 6 * SECOND,
            gone: Some(Gone {
                tgid: 7,
                program: Arc::from("node"),
                container: None,
                ended: Some((Ended::Signal(9), ENDED - 5 * SECOND)),
            }),
        }
    }

    fn case(asked: &str, around: Around, before: Option<Before>) -> Option<Case> {
        let unconnected = Unconnected {
            around: Some(around),
            before,
        };
        let peer = Peer {
            unconnected: Some(Arc::new(unconnected)),
            ..Peer::default()
        };
        of(&refused(asked), &peer)
    }

    fn name(case: Option<Case>) -> Option<&'static str> {
        case.map(|case| case.name)
    }

    #[test]
    fn a_listener_of_an_address_that_is_not_here_says_nothing() {
        let elsewhere = listener("0.0.0.0:80", Relation::OtherNetwork, 9, 1);
        let mut around = around(vec![elsewhere]);
        around.is_here = false;

        assert_eq!(case("10.0.0.5:80", around, None), None);
    }

    #[test]
    fn who_answered_before_had_the_right_address() {
        let elsewhere = || vec![listener("0.0.0.0:80", Relation::OtherNetwork, 9, 1)];

        let never = case("127.0.0.1:80", around(elsewhere()), None);
        let once = case("127.0.0.1:80", around(elsewhere()), Some(killed()));

        assert_eq!(name(never), Some("listens_in_another_network"));
        let once = once.unwrap();
        assert_eq!(once.name, "server_ended");
        assert_eq!(once.facts["ended"], "was killed by signal 9");
        assert_eq!(once.facts["ended_before_seconds"], "5.0");
        assert_eq!(once.facts["answered_before_seconds"], "6.0");
    }

    #[test]
    fn two_networks_with_the_port_are_a_guess() {
        let two = vec![
            listener("0.0.0.0:80", Relation::OtherNetwork, 8, 1),
            listener("0.0.0.0:80", Relation::OtherNetwork, 9, 1),
        ];

        let case = case("127.0.0.1:80", around(two), None).unwrap();

        assert_eq!(case.certainty, Certainty::Guess);
    }

    #[test]
    fn only_one_successor_that_started_since_is_where_the_server_went() {
        let successor = |tgid, started| {
            let address = format!("10.0.0.{tgid}:80");
            listener(&address, Relation::OtherNetwork, tgid, started)
        };
        let find = |listeners| name(case("10.0.0.5:80", around(listeners), Some(killed())));
        let since = ENDED - SECOND;

        assert_eq!(find(vec![successor(8, since)]), Some("address_moved"));
        // Another service of the same program.
        let mut other = successor(8, since);
        other.has_answered = true;
        assert_eq!(find(vec![other]), Some("server_ended"));
        // Both may be.
        let both = vec![successor(8, since), successor(9, since)];
        assert_eq!(find(both), Some("server_ended"));
        // It ran beside the other.
        assert_eq!(find(vec![successor(8, SECOND)]), Some("server_ended"));
    }

    #[test]
    fn what_listens_there_by_now_must_have_been_seen_after_the_refusal() {
        let there = |started| vec![listener("10.0.0.5:80", Relation::Covers, 9, started)];
        let fresh = around(there(ENDED - SECOND));
        let mut stale = fresh.clone();
        stale.looked = ENDED - 1;
        let old = around(there(SECOND));

        assert_eq!(
            name(case("10.0.0.5:80", fresh, None)),
            Some("listens_by_now")
        );
        assert_eq!(case("10.0.0.5:80", stale, None), None);
        // It was there all the time: who resets is not known.
        assert_eq!(case("10.0.0.5:80", old, None), None);
    }

    #[test]
    fn a_listener_beside_the_address_that_is_listened_on_says_nothing() {
        let both = vec![
            listener("10.0.0.5:80", Relation::Covers, 9, SECOND),
            listener("127.0.0.1:80", Relation::SameNetwork, 8, SECOND),
        ];

        assert_eq!(case("10.0.0.5:80", around(both), None), None);
    }
}

//! Why an upstream closed a connection that was kept for the next request.

use agent_core::cause::{Cause, Certainty};

use super::{Found, Kind, Scene};
use crate::events::human::{counted, duration};

/// No server keeps a connection for a shorter time unless it is told to, seconds.
const SHORTEST_TIMEOUT: f64 = 1.0;

/// Nobody sets a keep-alive timeout that is shorter, seconds.
const TOO_SHORT: f64 = 0.1;

/// Keep-alive timeouts that servers have by default, seconds: gunicorn; node.js, Apache httpd, uvicorn;
/// Tomcat, Puma; AWS load balancers; nginx in many distributions, and its own.
const DEFAULTS: [f64; 7] = [2.0, 5.0, 20.0, 30.0, 60.0, 65.0, 75.0];

/// By how much the idle time of a race may differ from the timeout, seconds: the way there, and how
/// often the server looks at its clock.
const NEAR: f64 = 0.1;

/// Closes in a row after the same number of requests that are no chance. Fewer: two that were used alike
/// pass for a limit. More: a limit that is there shows late.
const AGAIN: u32 = 3;

/// Closes after the same idle time that are no chance: one that ends at a usual number by chance is one in
/// some ten.
const TWICE: u32 = 2;

/// Requests at least. Fewer: what clients do on each connection, with a request at the end that the server
/// fails at, passes for a limit. More: small limits are not named.
const FEW: u32 = 10;

/// The close of a server that has done with a connection comes this soon after a request that crosses it,
/// seconds. Longer: closes of a server that had begun with the request pass for it.
const CROSSES: f64 = 0.005;

pub(super) const LIMIT_OF_REQUESTS: Kind = Kind {
    name: "limit_of_requests",
    causes: &[Cause::KeepaliveRace, Cause::ClosedBeforeResponse],
    evidence: "Three closes or more of kept connections to the address in a row came less than 100 ms after use, and after the same number of requests, 10 or more.",
    meaning: "{asked} closed {times} kept connections in a row after {carried} requests each, with the next one on its way: it has a limit of requests, for a connection or for the worker that holds it.",
    fix: "Have the proxy close sooner (nginx `keepalive_requests` in upstream, below {carried}), or raise the limit (keepalive_requests, MaxKeepAliveRequests, pm.max_requests); retry idempotent requests. No timeout helps.",
    find: limit_of_requests,
};

pub(super) const CLOSED_SOON_AFTER_USE: Kind = Kind {
    name: "closed_soon_after_use",
    causes: &[Cause::KeepaliveRace, Cause::ClosedBeforeResponse],
    evidence: "The connection had carried a request less than a second before; below 100 ms it is strong, else a guess. A guess as well where the close came after the request, within 5 ms, which a server that fails at once does too.",
    meaning: "The close crossed the request, and came {idle} after the last response, sooner than for idleness: {asked} has a limit of requests for a connection, or its worker was recycled, reloaded or stopped.",
    fix: "Raise that limit (keepalive_requests, MaxKeepAliveRequests, max_requests) or have it say `Connection: close`; drain on reloads and deploys; retry idempotent requests. No timeout helps.",
    find: closed_soon_after_use,
};

pub(super) const IDLE_TIMEOUT: Kind = Kind {
    name: "idle_timeout",
    causes: &[Cause::KeepaliveRace],
    evidence: "The connection had been idle for as long as a keep-alive timeout that servers have by default, to 100 ms. A guess the first time; strong when the address closes connections that were idle for as long, to 100 ms, twice in a row and more than a second apart.",
    meaning: "The close crossed the request, and came after {idle} of idleness ({times} so far in a row), as with a keep-alive timeout of {timeout} s at {asked}.",
    fix: "Set the proxy's idle timeout for upstream connections below {timeout} s (nginx keepalive_timeout in upstream, HAProxy pool-purge-delay, Envoy idle_timeout), or the upstream's above it.",
    find: idle_timeout,
};

fn limit_of_requests(scene: &Scene<'_>) -> Option<Found> {
    let (carried, times) = scene.peer.known.closed_after?;
    let is_its = scene.attempt.evidence.carried == Some(carried);
    let is_it = is_its && times >= AGAIN && carried >= FEW;
    is_it.then(|| {
        Found::new(Certainty::Strong)
            .fact("asked", scene.asked())
            .fact("carried", carried)
            .fact("times", times)
    })
}

fn closed_soon_after_use(scene: &Scene<'_>) -> Option<Found> {
    let attempt = scene.attempt;
    let idle = attempt.idle_seconds?;
    let is_race = attempt.failure.map(|failure| failure.cause) == Some(Cause::KeepaliveRace);
    let sure = match idle {
        idle if idle < TOO_SHORT && is_race => Certainty::Strong,
        idle if idle < TOO_SHORT && attempt.response_seconds < CROSSES => Certainty::Guess,
        _ if !is_race => return None,
        idle if idle < SHORTEST_TIMEOUT => Certainty::Guess,
        _ => return None,
    };
    let found = Found::new(sure)
        .fact("asked", scene.asked())
        .fact("idle", duration(idle));
    let carried = scene.attempt.evidence.carried;
    let requests = counted(carried.unwrap_or(0).into(), "request");
    Some(found.more("carried", carried, |_| {
        format!("It had carried {requests}.")
    }))
}

fn idle_timeout(scene: &Scene<'_>) -> Option<Found> {
    let idle = scene.attempt.idle_seconds?;
    let timeout = DEFAULTS
        .into_iter()
        .find(|timeout| (idle - timeout).abs() <= NEAR)?;
    let times = scene.peer.known.closed_idle.map_or(1, |idle| idle.times);
    let sure = if times >= TWICE {
        Certainty::Strong
    } else {
        Certainty::Guess
    };
    Some(
        Found::new(sure)
            .fact("asked", scene.asked())
            .fact("idle", duration(idle))
            .fact("times", times)
            .fact("timeout", timeout),
    )
}

#[cfg(test)]
mod tests {
    use agent_core::cause::{Cause, Certainty};

    use crate::cases;
    use crate::identity::Peer;
    use crate::identity::served::{ClosedIdle, Known};
    use crate::samples::failed_attempt;

    fn case(idle: Option<f64>) -> Option<(&'static str, Certainty)> {
        let mut attempt = failed_attempt();
        attempt.idle_seconds = idle;
        attempt.evidence.carried = Some(100);
        let case = cases::of(&attempt, &Peer::default())?;
        Some((case.name, case.certainty))
    }

    #[test]
    fn how_long_a_connection_was_idle_separates_a_timeout_from_other_closes() {
        let soon = |sure| Some(("closed_soon_after_use", sure));
        let timeout = Some(("idle_timeout", Certainty::Guess));
        for (idle, expected) in [
            (Some(0.001), soon(Certainty::Strong)),
            (Some(0.5), soon(Certainty::Guess)),
            (Some(1.5), None),
            (Some(5.04), timeout),
            (Some(4.97), timeout),
            (Some(7.0), None),
            (Some(75.0), timeout),
            (None, None),
        ] {
            assert_eq!(case(idle), expected, "{idle:?}");
        }
    }

    #[test]
    fn a_timeout_is_strong_when_it_shows_again() {
        let mut attempt = failed_attempt();
        attempt.idle_seconds = Some(5.02);
        for (times, expected) in [(1, Certainty::Guess), (2, Certainty::Strong)] {
            let known = Known {
                closed_idle: Some(ClosedIdle {
                    tenths: 50,
                    times,
                    last: 0,
                }),
                ..Known::default()
            };
            let peer = Peer {
                known,
                ..Peer::default()
            };
            let case = cases::of(&attempt, &peer).unwrap();
            assert_eq!((case.name, case.certainty), ("idle_timeout", expected));
        }
    }

    #[test]
    fn a_close_that_came_after_the_request_is_a_guess() {
        let mut attempt = failed_attempt();
        attempt.failure.as_mut().unwrap().cause = Cause::ClosedBeforeResponse;
        attempt.idle_seconds = Some(0.001);
        for (seconds, expected) in [
            (0.001, Some(("closed_soon_after_use", Certainty::Guess))),
            (0.1, None),
        ] {
            attempt.response_seconds = seconds;

            let case = cases::of(&attempt, &Peer::default());

            let told = case.map(|case| (case.name, case.certainty));
            assert_eq!(told, expected, "{seconds}");
        }
    }

    #[test]
    fn the_same_number_of_requests_again_and_again_is_a_limit() {
        let mut attempt = failed_attempt();
        attempt.idle_seconds = Some(0.001);
        attempt.evidence.carried = Some(100);
        for (closed_after, expected) in [
            (None, "closed_soon_after_use"),
            (Some((100, 2)), "closed_soon_after_use"),
            (Some((100, 3)), "limit_of_requests"),
            (Some((99, 3)), "closed_soon_after_use"),
        ] {
            let known = Known {
                closed_after,
                ..Known::default()
            };
            let peer = Peer {
                known,
                ..Peer::default()
            };

            let case = cases::of(&attempt, &peer);

            assert_eq!(case.map(|case| case.name), Some(expected));
        }
    }
}

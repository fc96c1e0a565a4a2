//! Why an upstream closed a connection that was kept for the next request.

use agent_core::cause::{Cause, Certainty};

use super::{Found, Kind, Scene};
use crate::events::human::duration;

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

pub(super) const CLOSED_SOON_AFTER_USE: Kind = Kind {
    name: "closed_soon_after_use",
    causes: &[Cause::KeepaliveRace],
    evidence: "The connection had carried a request less than a second before; below 100 ms it is strong, else a guess.",
    meaning: "The close crossed the request, and came {idle} after the last response, sooner than for idleness: {asked} has a limit of requests for a connection, or its worker was recycled, reloaded or stopped.",
    fix: "Raise that limit (keepalive_requests, MaxKeepAliveRequests, max_requests) or have it say `Connection: close`; drain on reloads and deploys; retry idempotent requests. No timeout helps.",
    find: closed_soon_after_use,
};

pub(super) const IDLE_TIMEOUT: Kind = Kind {
    name: "idle_timeout",
    causes: &[Cause::KeepaliveRace],
    evidence: "The connection had been idle for as long as a keep-alive timeout that servers have by default, to 100 ms.",
    meaning: "The close crossed the request, and came after {idle} of idleness: the keep-alive timeout of {asked} is {timeout} s, as far as this one case tells.",
    fix: "Set the proxy's idle timeout for upstream connections below {timeout} s (nginx keepalive_timeout in upstream, HAProxy pool-purge-delay, Envoy idle_timeout), or the upstream's above it.",
    find: idle_timeout,
};

fn closed_soon_after_use(scene: &Scene<'_>) -> Option<Found> {
    let idle = scene.attempt.idle_seconds?;
    let sure = match idle {
        idle if idle < TOO_SHORT => Certainty::Strong,
        idle if idle < SHORTEST_TIMEOUT => Certainty::Guess,
        _ => return None,
    };
    let found = Found::new(sure)
        .fact("asked", scene.asked())
        .fact("idle", duration(idle));
    let carried = scene.attempt.evidence.carried;
    Some(found.more("carried", carried, |carried| {
        format!("It had carried {carried} requests: the same number again and again is that limit.")
    }))
}

fn idle_timeout(scene: &Scene<'_>) -> Option<Found> {
    let idle = scene.attempt.idle_seconds?;
    let timeout = DEFAULTS
        .into_iter()
        .find(|timeout| (idle - timeout).abs() <= NEAR)?;
    Some(
        Found::new(Certainty::Strong)
            .fact("asked", scene.asked())
            .fact("idle", duration(idle))
            .fact("timeout", timeout),
    )
}

#[cfg(test)]
mod tests {
    use agent_core::cause::Certainty;

    use crate::cases;
    use crate::identity::Peer;
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
        let timeout = Some(("idle_timeout", Certainty::Strong));
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
}

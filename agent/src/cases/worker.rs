//! What the upstream's workers did: whether anybody took a request that was never answered, and whether
//! the one that had its connection ended of its own will.

use agent_core::cause::{Cause, Certainty};
use agent_core::observation::Ended;

use super::{Found, Kind, Scene};
use crate::events::human::duration;

pub(super) const NEVER_READ: Kind = Kind {
    name: "never_read",
    causes: &[Cause::ResponseTimeout],
    evidence: "The upstream is on this host, and its end of the connection tells that no process had read a byte from it when the proxy gave up.",
    meaning: "The request waited {waited} at {asked} and no process read it: it sat in the accept queue, or its worker did not come to it.",
    fix: "All workers are busy or stuck: find what holds them (`ss -ltn` shows the queue as Recv-Q), add workers (pm.max_children, gunicorn -w, threads), or take in fewer requests.",
    find: never_read,
};

pub(super) const READ_AND_SLOW: Kind = Kind {
    name: "read_and_not_answered",
    causes: &[Cause::ResponseTimeout],
    evidence: "The upstream is on this host, and a process had read from its end of the connection before the proxy gave up.",
    meaning: "A process at {asked} read from the connection and did not answer within {waited}: it was taken in, and waits or is worked on there.",
    fix: "Find what it waits for: a slow query, a lock, a downstream call, or, where the process that reads is a relay, an event loop or a proxy of its own, a queue behind it. Raise the timeout only if the work is meant to take that long.",
    find: read_and_slow,
};

pub(super) const EXITED: Kind = Kind {
    name: "worker_exited",
    causes: &[
        Cause::KeepaliveRace,
        Cause::ClosedBeforeResponse,
        Cause::TruncatedResponse,
    ],
    evidence: "The upstream is on this host, and the connection was closed as its process exited with status 0: by itself, and as if all were well.",
    meaning: "The worker of {asked} exited with status 0 with the request its to answer: it had answered its number of requests, or was reloaded, scaled down or stopped. No timeout closed it.",
    fix: "Raise that number or drop it (php-fpm pm.max_requests, gunicorn and uWSGI max-requests); drain on reloads and deploys; retry idempotent requests. No timeout helps.",
    find: exited,
};

fn exited(scene: &Scene<'_>) -> Option<Found> {
    let is_it = scene.attempt.evidence.process_ended == Some(Ended::Status(0));
    let found = is_it.then(|| Found::new(Certainty::Strong).fact("asked", scene.asked()))?;
    let idle = scene.attempt.idle_seconds.map(duration);
    let found = found.more("idle", idle, |idle| {
        format!("The last response had ended {idle} before.")
    });
    let carried = scene.attempt.evidence.carried;
    Some(found.more("carried", carried, |carried| {
        format!("Its connection had carried {carried} requests.")
    }))
}

fn never_read(scene: &Scene<'_>) -> Option<Found> {
    read(scene, false)
}

fn read_and_slow(scene: &Scene<'_>) -> Option<Found> {
    read(scene, true)
}

fn read(scene: &Scene<'_>, read: bool) -> Option<Found> {
    let is_it = scene.attempt.evidence.read == Some(read);
    is_it.then(|| {
        Found::new(Certainty::Strong)
            .fact("asked", scene.asked())
            .fact("waited", duration(scene.attempt.response_seconds))
    })
}

#[cfg(test)]
mod tests {
    use agent_core::cause::{Cause, Certainty, How};
    use agent_core::event::Failure;
    use agent_core::observation::{Ended, Phase};

    use crate::cases;
    use crate::identity::Peer;
    use crate::samples::failed_attempt;

    #[test]
    fn whether_the_request_was_read_separates_busy_workers_from_slow_work() {
        for (read, expected) in [
            (None, None),
            (Some(false), Some("never_read")),
            (Some(true), Some("read_and_not_answered")),
        ] {
            let mut attempt = failed_attempt();
            attempt.failure = Some(Failure {
                cause: Cause::ResponseTimeout,
                certainty: Certainty::Proof,
                phase: Phase::Request,
                how: How::Timeout,
            });
            attempt.evidence.read = read;

            let case = cases::of(&attempt, &Peer::default());

            assert_eq!(case.map(|case| case.name), expected, "{read:?}");
        }
    }

    #[test]
    fn a_worker_that_exited_well_closed_for_no_idleness() {
        for (cause, ended, expected) in [
            (Cause::KeepaliveRace, Ended::Status(0), "worker_exited"),
            (
                Cause::ClosedBeforeResponse,
                Ended::Status(0),
                "worker_exited",
            ),
            (Cause::KeepaliveRace, Ended::Status(9), "idle_timeout"),
        ] {
            let mut attempt = failed_attempt();
            attempt.failure = Some(Failure {
                cause,
                certainty: Certainty::Proof,
                phase: Phase::Request,
                how: How::Fin,
            });
            // As long as a timeout by chance.
            attempt.idle_seconds = Some(5.0);
            attempt.evidence.process_ended = Some(ended);

            let case = cases::of(&attempt, &Peer::default());

            assert_eq!(case.map(|case| case.name), Some(expected), "{cause:?}");
        }
    }
}

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
    meaning: "The worker of {asked} exited with status 0 while the request was its to answer: it had answered its number of requests, or was reloaded, scaled down or stopped. No timeout closed it.",
    fix: "Raise that number or drop it (php-fpm pm.max_requests, gunicorn and uWSGI max-requests); drain on reloads and deploys; retry idempotent requests. No timeout helps.",
    find: exited,
};

pub(super) const KILLED: Kind = Kind {
    name: "killed_by_somebody",
    causes: &[Cause::UpstreamCrashed],
    evidence: "The upstream is on this host, its process was ended by SIGKILL, SIGTERM or SIGINT under the request, and the kernel did not send that for want of memory.",
    meaning: "The process of {asked} was killed by signal {signal}: somebody sent it, and not the kernel for want of memory.",
    fix: "Find who: a daemon that watches memory (systemd-oomd, the kubelet), a limit for one request (uWSGI harakiri, php-fpm request_terminate_timeout, gunicorn --timeout), a stop or deploy that did not wait, a liveness probe.",
    find: killed,
};

pub(super) const STOPPED: Kind = Kind {
    name: "stopped_by_signal",
    causes: &[Cause::UpstreamCrashed],
    evidence: "The upstream is on this host, and its process exited under the request with status 129, 130 or 143: 128 and the number of SIGHUP, SIGINT or SIGTERM, as a program exits that handles the signal, or a shell whose program it ended.",
    meaning: "The process of {asked} exited with status {status} while the request was its to answer: that is what programs exit with that are stopped by signal {signal}, as a JVM does.",
    fix: "A stop, a deploy or a scale-down did not wait: take the upstream out of the pool first, let it finish what it has (a preStop hook, graceful shutdown), and give it the time for that.",
    find: stopped,
};

pub(super) const FAILED: Kind = Kind {
    name: "exited_with_error",
    causes: &[Cause::UpstreamCrashed],
    evidence: "The upstream is on this host, and its process exited under the request by itself, with a status that is not 0.",
    meaning: "The process of {asked} exited by itself with status {status} while the request was its to answer.",
    fix: "Read its own log of that second: an exception that nobody caught, a failed assertion, a missing resource.",
    find: failed,
};

/// SIGINT, SIGKILL and SIGTERM (signal(7)): a process does not get these for a fault of its own.
const SENT: [u32; 3] = [2, 9, 15];

fn killed(scene: &Scene<'_>) -> Option<Found> {
    match scene.attempt.evidence.process_ended? {
        Ended::Signal(signal) if SENT.contains(&signal) => Some(
            Found::new(Certainty::Strong)
                .fact("asked", scene.asked())
                .fact("signal", signal),
        ),
        Ended::Signal(_) | Ended::Status(_) | Ended::OutOfMemory => None,
    }
}

/// 128 and SIGHUP, SIGINT or SIGTERM.
const STOPPED_BY: [u8; 3] = [129, 130, 143];

fn stopped(scene: &Scene<'_>) -> Option<Found> {
    match scene.attempt.evidence.process_ended? {
        Ended::Status(status) if STOPPED_BY.contains(&status) => Some(
            Found::new(Certainty::Strong)
                .fact("asked", scene.asked())
                .fact("status", status)
                .fact("signal", status - 128),
        ),
        Ended::Status(_) | Ended::Signal(_) | Ended::OutOfMemory => None,
    }
}

fn failed(scene: &Scene<'_>) -> Option<Found> {
    match scene.attempt.evidence.process_ended? {
        Ended::Status(status @ 1..) if !STOPPED_BY.contains(&status) => Some(
            Found::new(Certainty::Strong)
                .fact("asked", scene.asked())
                .fact("status", status),
        ),
        Ended::Status(_) | Ended::Signal(_) | Ended::OutOfMemory => None,
    }
}

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

    #[test]
    fn who_killed_a_process_is_another_question_than_why_it_crashed() {
        for (ended, expected) in [
            (Ended::Signal(9), Some("killed_by_somebody")),
            (Ended::Signal(11), None),
            (Ended::OutOfMemory, None),
            (Ended::Status(3), Some("exited_with_error")),
            (Ended::Status(143), Some("stopped_by_signal")),
            (Ended::Status(137), Some("exited_with_error")),
        ] {
            let mut attempt = failed_attempt();
            attempt.failure = Some(Failure {
                cause: Cause::UpstreamCrashed,
                certainty: Certainty::Proof,
                phase: Phase::Request,
                how: How::Fin,
            });
            attempt.evidence.process_ended = Some(ended);

            let case = cases::of(&attempt, &Peer::default());

            assert_eq!(case.map(|case| case.name), expected, "{ended:?}");
        }
    }
}

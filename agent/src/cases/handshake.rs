//! A TLS handshake that one side refused by an alert in clear.

use agent_core::cause::{Cause, Certainty};
use agent_core::event::ServerName;
use agent_core::observation::TlsAlert;

use super::{Found, Kind, Scene};
use crate::knowledge::tls_alerts;

/// AlertDescription (RFC 8446, 6).
const HANDSHAKE_FAILURE: u8 = 40;
const EXPIRED: u8 = 45;
const UNKNOWN_CA: u8 = 48;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;

/// Alerts that say what was wrong with a certificate: bad, unsupported, revoked, expired, unknown,
/// and of an unknown CA.
const ABOUT_CERTIFICATES: [u8; 6] = [42, 43, 44, EXPIRED, 46, UNKNOWN_CA];

pub(super) const SERVER_NAME_UNKNOWN: Kind = Kind {
    name: "server_name_unknown",
    causes: &[Cause::TlsFailed],
    evidence: "The ClientHello named a server, and the upstream answered with the alert unrecognized_name (112).",
    meaning: "The upstream at {asked} serves no {server_name}, which is the server name (SNI) that the proxy sent: {alert}.",
    fix: "Send a name that the upstream has a certificate for (nginx proxy_ssl_name, HAProxy sni, Envoy sni, Apache ProxyPreserveHost), or have it serve {server_name}.",
    find: server_name_unknown,
};

pub(super) const NO_SERVER_NAME: Kind = Kind {
    name: "no_server_name",
    causes: &[Cause::TlsFailed],
    evidence: "The ClientHello named no server, and the upstream answered with the alert unrecognized_name (112), or, as a guess, handshake_failure (40).",
    meaning: "The proxy sent no server name (SNI), and the upstream at {asked} does not answer without one: {alert}.",
    fix: "Send the server's name: nginx proxy_ssl_server_name on, HAProxy `sni str(NAME)` on the server line, Envoy `sni`.",
    find: no_server_name,
};

pub(super) const NO_COMMON_TLS_VERSION: Kind = Kind {
    name: "no_common_tls_version",
    causes: &[Cause::TlsFailed],
    evidence: "The upstream answered the ClientHello with the alert protocol_version (70).",
    meaning: "Proxy and upstream at {asked} share no version of TLS: {alert}.",
    fix: "Enable a version that both have (nginx proxy_ssl_protocols, HAProxy ssl-min-ver, Envoy tls_minimum_protocol_version; the upstream's own setting).",
    find: no_common_tls_version,
};

pub(super) const CERTIFICATE_NOT_TRUSTED: Kind = Kind {
    name: "certificate_not_trusted",
    causes: &[Cause::TlsFailed],
    evidence: "The proxy ended the handshake with the alert unknown_ca (48), in clear.",
    meaning: "The proxy does not trust who signed the certificate of the upstream at {asked}: {alert}.",
    fix: "Give the proxy the CA (nginx proxy_ssl_trusted_certificate, HAProxy ca-file, Envoy trusted_ca, Apache SSLProxyCACertificateFile), or the upstream its intermediates.",
    find: certificate_not_trusted,
};

pub(super) const CERTIFICATE_EXPIRED: Kind = Kind {
    name: "certificate_expired",
    causes: &[Cause::TlsFailed],
    evidence: "The proxy ended the handshake with the alert certificate_expired (45), in clear.",
    meaning: "The certificate of the upstream at {asked} is not valid now: {alert}.",
    fix: "Renew the upstream's certificate, reload the upstream, and compare the clocks of both hosts.",
    find: certificate_expired,
};

pub(super) const CERTIFICATE_REFUSED: Kind = Kind {
    name: "certificate_refused",
    causes: &[Cause::TlsFailed],
    evidence: "The proxy ended the handshake with an alert about a certificate, in clear.",
    meaning: "The proxy refused the certificate of the upstream at {asked}: {alert}.",
    fix: "Compare name, dates, issuer and key usage of the certificate with what the proxy verifies: openssl s_client -connect {asked} -showcerts.",
    find: certificate_refused,
};

pub(super) const REFUSED_BY_UPSTREAM: Kind = Kind {
    name: "tls_refused_by_upstream",
    causes: &[Cause::TlsFailed],
    evidence: "The upstream answered the handshake with an alert in clear.",
    meaning: "The upstream at {asked} refused the handshake: {alert}.",
    fix: "Read the upstream's own log of that second. handshake_failure (40): no cipher suite, group or signature in common, no certificate for the name, or it wants one of the proxy.",
    find: refused_by_upstream,
};

fn server_name_unknown(scene: &Scene<'_>) -> Option<Found> {
    let Some(ServerName::Sent(name)) = &scene.attempt.evidence.server_name else {
        return None;
    };
    let found = by_upstream(scene, &[UNRECOGNIZED_NAME], Certainty::Proof)?;
    Some(found.fact("server_name", name))
}

fn no_server_name(scene: &Scene<'_>) -> Option<Found> {
    let absent = scene.attempt.evidence.server_name == Some(ServerName::Absent);
    let sure = by_upstream(scene, &[UNRECOGNIZED_NAME], Certainty::Strong);
    let found = sure.or_else(|| by_upstream(scene, &[HANDSHAKE_FAILURE], Certainty::Guess));
    found.filter(|_| absent)
}

fn no_common_tls_version(scene: &Scene<'_>) -> Option<Found> {
    by_upstream(scene, &[PROTOCOL_VERSION], Certainty::Proof)
}

fn certificate_not_trusted(scene: &Scene<'_>) -> Option<Found> {
    by_proxy(scene, &[UNKNOWN_CA])
}

fn certificate_expired(scene: &Scene<'_>) -> Option<Found> {
    by_proxy(scene, &[EXPIRED])
}

fn certificate_refused(scene: &Scene<'_>) -> Option<Found> {
    by_proxy(scene, &ABOUT_CERTIFICATES)
}

fn refused_by_upstream(scene: &Scene<'_>) -> Option<Found> {
    let alert = scene.attempt.evidence.tls_alert?;
    let found = by_upstream(scene, &[alert.description], Certainty::Proof)?;
    let name = match &scene.attempt.evidence.server_name {
        Some(ServerName::Sent(name)) => Some(name),
        Some(ServerName::Absent) | None => None,
    };
    Some(found.more("server_name", name, |name| {
        format!("The proxy asked for the server name {name}.")
    }))
}

fn by_proxy(scene: &Scene<'_>, descriptions: &[u8]) -> Option<Found> {
    alerted(scene, false, descriptions, Certainty::Proof)
}

fn by_upstream(scene: &Scene<'_>, descriptions: &[u8], sure: Certainty) -> Option<Found> {
    alerted(scene, true, descriptions, sure)
}

fn alerted(
    scene: &Scene<'_>,
    upstream: bool,
    descriptions: &[u8],
    sure: Certainty,
) -> Option<Found> {
    let TlsAlert {
        by_peer,
        description,
    } = scene.attempt.evidence.tls_alert?;
    if by_peer != upstream || !descriptions.contains(&description) {
        return None;
    }
    let alert = tls_alerts::in_words(description);
    Some(
        Found::new(sure)
            .fact("asked", scene.asked())
            .fact("alert", alert),
    )
}

#[cfg(test)]
mod tests {
    use agent_core::cause::{Cause, Certainty, How};
    use agent_core::event::{Failure, ServerName};
    use agent_core::observation::{Phase, TlsAlert};

    use crate::cases;
    use crate::identity::Peer;
    use crate::samples::failed_attempt;

    fn case(by_peer: bool, description: u8, name: Option<ServerName>) -> (&'static str, Certainty) {
        let mut attempt = failed_attempt();
        attempt.failure = Some(Failure {
            cause: Cause::TlsFailed,
            certainty: Certainty::Proof,
            phase: Phase::Tls,
            how: How::Fin,
        });
        attempt.evidence.tls_alert = Some(TlsAlert {
            by_peer,
            description,
        });
        attempt.evidence.server_name = name;
        let case = cases::of(&attempt, &Peer::default()).expect("an alert is a case");
        assert!(!case.meaning.contains(['{', '}']), "{}", case.meaning);
        (case.name, case.certainty)
    }

    #[test]
    fn an_alert_is_told_with_what_was_asked_for() {
        let sent = || Some(ServerName::Sent("shop.internal".into()));
        let absent = Some(ServerName::Absent);
        for (by_peer, alert, name, expected) in [
            (true, 112, sent(), ("server_name_unknown", Certainty::Proof)),
            (
                true,
                112,
                absent.clone(),
                ("no_server_name", Certainty::Strong),
            ),
            (true, 40, absent, ("no_server_name", Certainty::Guess)),
            (
                true,
                112,
                None,
                ("tls_refused_by_upstream", Certainty::Proof),
            ),
            (
                true,
                40,
                sent(),
                ("tls_refused_by_upstream", Certainty::Proof),
            ),
            (
                true,
                70,
                sent(),
                ("no_common_tls_version", Certainty::Proof),
            ),
            (
                true,
                48,
                sent(),
                ("tls_refused_by_upstream", Certainty::Proof),
            ),
            (
                false,
                48,
                sent(),
                ("certificate_not_trusted", Certainty::Proof),
            ),
            (false, 45, None, ("certificate_expired", Certainty::Proof)),
            (false, 42, None, ("certificate_refused", Certainty::Proof)),
        ] {
            assert_eq!(case(by_peer, alert, name), expected, "{alert}");
        }
    }
}

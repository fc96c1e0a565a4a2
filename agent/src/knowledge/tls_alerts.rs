//! What TLS alerts are called (RFC 8446, 6; RFC 5246, 7.2 for those of TLS 1.2 alone).

/// `unrecognized_name (112)`; the number alone of one that no document names.
pub fn in_words(description: u8) -> String {
    match name(description) {
        Some(name) => format!("{name} ({description})"),
        None => description.to_string(),
    }
}

/// The name of an alert by its description; `None` for one that no document names.
pub fn name(description: u8) -> Option<&'static str> {
    Some(match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        21 => "decryption_failed",
        22 => "record_overflow",
        30 => "decompression_failure",
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        60 => "export_restriction",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        111 => "certificate_unobtainable",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        114 => "bad_certificate_hash_value",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn an_alert_is_called_as_its_document_calls_it() {
        assert_eq!(name(40), Some("handshake_failure"));
        assert_eq!(name(112), Some("unrecognized_name"));
        assert_eq!(name(200), None);
    }
}

//! Which format and which encoding a scraper wants (RFC 9110, 12.5).

use crate::metrics::exposition::Format;

/// Media type of Prometheus protobuf.
const PROTOBUF: &str = "application/vnd.google.protobuf";
/// Media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// The format for a value of `Accept`: the one with the highest quality, the first of
/// equals; plain text when nothing else is asked for by name.
pub(super) fn format(accept: Option<&str>) -> Format {
    let mut best = (Format::Text, 0);
    for range in accept.unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality = quality(&parameters);
        if quality > best.1
            && let Some(format) = supported(media, &parameters)
        {
            best = (format, quality);
        }
    }
    best.0
}

/// Whether a value of `Accept-Encoding` allows gzip.
pub(super) fn gzip(accept_encoding: Option<&str>) -> bool {
    accept_encoding
        .unwrap_or_default()
        .split(',')
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            let parameters: Vec<(&str, &str)> =
                parts.filter_map(|part| part.split_once('=')).collect();
            named && quality(&parameters) > 0
        })
}

fn supported(media: &str, parameters: &[(&str, &str)]) -> Option<Format> {
    let parameter = |name: &str| {
        parameters
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    };
    match media.to_ascii_lowercase().as_str() {
        PROTOBUF => {
            let ours = parameter("proto") == Some("io.prometheus.client.MetricFamily")
                && parameter("encoding") == Some("delimited");
            ours.then_some(Format::Protobuf)
        }
        OPEN_METRICS => matches!(parameter("version"), None | Some("1.0.0" | "0.0.1"))
            .then_some(Format::OpenMetrics),
        "text/plain" | "text/*" | "*/*" => Some(Format::Text),
        _ => None,
    }
}

/// Thousandths; 1000 when not given, 0 when it is no number.
fn quality(parameters: &[(&str, &str)]) -> u32 {
    let Some((_, value)) = parameters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("q"))
    else {
        return 1000;
    };
    let quality = value.parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0);
    // In 0..=1000 by the clamp.
    (quality * 1000.0).round() as u32
}

#[cfg(test)]
mod tests {
    use super::{format, gzip};
    use crate::metrics::exposition::Format;

    #[test]
    fn a_prometheus_that_wants_native_histograms_gets_protobuf() {
        let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                      application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";

        assert_eq!(format(Some(accept)), Format::Protobuf);
    }

    #[test]
    fn a_prometheus_that_prefers_text_gets_open_metrics() {
        let accept = "application/openmetrics-text;version=1.0.0;q=0.6,\
                      application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

        assert_eq!(format(Some(accept)), Format::OpenMetrics);
    }

    #[test]
    fn anyone_else_gets_plain_text() {
        for accept in [
            None,
            Some(""),
            Some("*/*"),
            Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
            Some("application/vnd.google.protobuf;proto=other.Message;encoding=delimited"),
            Some("application/openmetrics-text;version=9.0.0"),
            Some("application/openmetrics-text;q=0"),
            Some("application/openmetrics-text;q=nonsense"),
        ] {
            assert_eq!(format(accept), Format::Text, "{accept:?}");
        }
    }

    #[test]
    fn gzip_is_used_only_when_allowed() {
        assert!(gzip(Some("gzip")));
        assert!(gzip(Some("br, GZIP;q=0.5")));
        assert!(!gzip(Some("gzip;q=0")));
        assert!(!gzip(Some("br, identity")));
        assert!(!gzip(None));
    }
}

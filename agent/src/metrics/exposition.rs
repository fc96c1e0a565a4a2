//! The registry as bytes, in the format a scraper asked for.
//!
//! Three formats: Prometheus protobuf (the only one with native histograms), OpenMetrics
//! 1.0, and the plain text 0.0.4 that everything reads. Choosing among them is the
//! exporter's.

use std::fmt::{self, Write};

use prometheus_client::encoding::{prometheus_protobuf, text};
use prometheus_client::registry::Registry;
use thiserror::Error;

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Length-delimited `io.prometheus.client.MetricFamily` messages.
    Protobuf,
    /// OpenMetrics 1.0 text, with exemplars.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

/// The registry could not be written.
#[derive(Debug, Error)]
pub enum ExpositionError {
    /// A metric refused.
    #[error("cannot write the metrics as text: a metric could not be encoded")]
    Text(#[from] fmt::Error),
    /// A message refused.
    #[error("cannot write the metrics as protobuf: {0}")]
    Protobuf(#[from] prometheus_protobuf::EncodeError),
}

impl Format {
    /// Value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes the registry.
    ///
    /// # Errors
    /// A metric that cannot be encoded.
    pub fn write(self, registry: &Registry) -> Result<Vec<u8>, ExpositionError> {
        match self {
            Self::Protobuf => Ok(prometheus_protobuf::encode_to_vec(registry)?),
            Self::OpenMetrics => {
                let mut out = String::new();
                text::encode(&mut out, registry)?;
                Ok(out.into_bytes())
            }
            Self::Text => {
                let mut open = String::new();
                text::encode_registry(&mut open, registry)?;
                Ok(to_plain_text(&open)?.into_bytes())
            }
        }
    }
}

/// OpenMetrics to text 0.0.4: there a counter's family is called as its series are, with
/// `_total`, and there are no units and no exemplars.
fn to_plain_text(open: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Its name waits for the type.
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or(fmt::Error)?;
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                writeln!(out, "# HELP {name}{suffix} {}", help.replace("\\\"", "\""))?;
            }
            writeln!(out, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            out.push_str(without_exemplar(line));
            out.push('\n');
        }
    }
    Ok(out)
}

/// Cuts ` # {…} …` after the sample, and not inside a label's value.
fn without_exemplar(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{to_plain_text, without_exemplar};

    #[test]
    fn plain_text_names_a_counter_as_its_series() {
        let open = "# HELP a_b A \\\"b\\\".\n# TYPE a_b counter\na_b_total{x=\"1\"} 2 # {trace_id=\"t\"} 1 1.5\n\
                    # HELP g G.\n# TYPE g gauge\n# UNIT g seconds\ng 1\n";

        let plain = to_plain_text(open).unwrap();

        assert_eq!(
            plain,
            "# HELP a_b_total A \"b\".\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n\
             # HELP g G.\n# TYPE g gauge\ng 1\n"
        );
    }

    #[test]
    fn a_hash_in_a_label_is_no_exemplar() {
        assert_eq!(
            without_exemplar(r##"a{x="un\"ix # {"} 2"##),
            r##"a{x="un\"ix # {"} 2"##
        );
        assert_eq!(
            without_exemplar(r##"a{x="#"} 2 # {y="z"} 1"##),
            r##"a{x="#"} 2"##
        );
    }
}

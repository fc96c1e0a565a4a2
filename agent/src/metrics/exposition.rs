//! The registry as bytes, in the format a scraper asked for.
//!
//! Three formats: Prometheus protobuf (the only one with native histograms), OpenMetrics
//! 1.0, and the plain text 0.0.4 that everything reads. Choosing among them is the
//! exporter's.

use std::fmt::{self, Write};
use std::io::{self, BufWriter, Write as _};

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
    /// Nobody takes it.
    #[error("cannot write the metrics: {0}")]
    Output(#[from] io::Error),
}

/// Bytes handed on at once. Fewer: whoever packs them is called for every word. More: memory for nothing.
const CHUNK_BYTES: usize = 32 << 10;

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

    /// Writes the registry to `out`, text as it is encoded: of a thousand upstreams that is eleven
    /// megabytes, which need not be anywhere as a whole. Protobuf is made as a whole.
    ///
    /// # Errors
    /// A metric that cannot be encoded; `out` fails.
    pub fn write(self, registry: &Registry, out: impl io::Write) -> Result<(), ExpositionError> {
        let mut out = Output {
            bytes: BufWriter::with_capacity(CHUNK_BYTES, out),
            failure: None,
        };
        let encoded = match self {
            Self::Protobuf => {
                out.bytes
                    .write_all(&prometheus_protobuf::encode_to_vec(registry)?)?;
                Ok(())
            }
            Self::OpenMetrics => text::encode(&mut out, registry),
            Self::Text => text::encode_registry(&mut PlainText::new(&mut out), registry),
        };
        if let Some(failure) = out.failure {
            return Err(failure.into());
        }
        encoded?;
        // Not by way of `flush`, which would have a packer end a block.
        out.bytes
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    /// The same as bytes in memory.
    ///
    /// # Errors
    /// A metric that cannot be encoded.
    pub fn to_vec(self, registry: &Registry) -> Result<Vec<u8>, ExpositionError> {
        let mut bytes = Vec::new();
        self.write(registry, &mut bytes)?;
        Ok(bytes)
    }
}

/// Text on its way to bytes.
struct Output<W: io::Write> {
    bytes: BufWriter<W>,
    /// Why a write failed: an error of formatting does not say.
    failure: Option<io::Error>,
}

impl<W: io::Write> Write for Output<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.write_all(text.as_bytes()).map_err(|failure| {
            self.failure = Some(failure);
            fmt::Error
        })
    }
}

/// OpenMetrics on its way to text 0.0.4: there a counter's family is called as its series are, with
/// `_total`, and there are no units and no exemplars.
struct PlainText<W> {
    out: W,
    /// The line so far.
    line: String,
    /// What a family is for, which waits for its type.
    help: Option<String>,
}

impl<W: Write> PlainText<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            line: String::new(),
            help: None,
        }
    }

    fn end_line(&mut self) -> fmt::Result {
        let Self { out, line, help } = self;
        if let Some(rest) = line.strip_prefix("# HELP ") {
            *help = rest.split_once(' ').map(|(_, help)| help.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or(fmt::Error)?;
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some(help) = help.take() {
                writeln!(out, "# HELP {name}{suffix} {}", help.replace("\\\"", "\""))?;
            }
            writeln!(out, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(out, "{}", without_exemplar(line))?;
        }
        line.clear();
        Ok(())
    }
}

impl<W: Write> Write for PlainText<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive('\n') {
            match piece.strip_suffix('\n') {
                Some(end) => {
                    self.line.push_str(end);
                    self.end_line()?;
                }
                None => self.line.push_str(piece),
            }
        }
        Ok(())
    }
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
    use std::fmt::Write;

    use super::{PlainText, without_exemplar};

    const PLAIN: &str = "# HELP a_b_total A \"b\".\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n\
             # HELP g G.\n# TYPE g gauge\ng 1\n";

    #[test]
    fn plain_text_names_a_counter_as_its_series() {
        let open = "# HELP a_b A \\\"b\\\".\n# TYPE a_b counter\na_b_total{x=\"1\"} 2 # {trace_id=\"t\"} 1 1.5\n\
                    # HELP g G.\n# TYPE g gauge\n# UNIT g seconds\ng 1\n";

        // Wherever it is cut on its way.
        for at in 0..open.len() {
            let mut plain = String::new();
            let mut writer = PlainText::new(&mut plain);
            writer.write_str(&open[..at]).unwrap();
            writer.write_str(&open[at..]).unwrap();
            assert_eq!(plain, PLAIN);
        }
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

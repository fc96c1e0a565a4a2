//! `why502 run --record`: what the core is fed, in a file.
//!
//! In: each [`Input`] before the core takes it. Out: a line of JSON for each, behind a first
//! line that names the format. The same lines fed to an empty core give the same events, which
//! is what a bug report needs and what `agent-core/tests/replay.rs` does. It writes what the
//! core is fed and nothing else: no bytes of heads, no queries, no cookies. A recording that
//! cannot go on stops with a warning; the agent goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agent_core::Input;
use agent_core::observation::Nanos;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

/// Number of the format. It goes up when older recordings cannot be read any more.
const FORMAT: u32 = 2;

/// Text written at most, bytes, before any compression. Too small: a recording ends before what
/// it was made for happens. Too large: it fills the disk of someone's proxy. About 400,000
/// observations.
const MAX_BYTES: u64 = 256 << 20;

/// While nothing but time passes, each step of it is written for so long, ns. Shorter than the
/// core's grace: what falls due after the last observation would be told later than it was.
const EACH_STEP_NANOS: Nanos = 2_000_000_000;

/// Then a step is written each so many ns. Longer: gaps in a recording. Shorter: a quiet host
/// fills the file with time.
const QUIET_STEP_NANOS: Nanos = 1_000_000_000;

/// A file being written.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// `None` when it has ended.
    out: Option<Out>,
    written: u64,
    limit: u64,
    /// A step of time that is not written yet, and is when something else follows.
    step: Option<Nanos>,
    /// When the last thing that is not time was fed, by the last step before it.
    busy: Nanos,
    /// The last step that was written.
    stepped: Nanos,
    line: Vec<u8>,
}

#[derive(Debug)]
enum Out {
    Plain(BufWriter<File>),
    Gzip(BufWriter<GzEncoder<File>>),
}

/// The first line.
#[derive(Debug, Serialize)]
struct Head {
    why502_recording: u32,
    version: &'static str,
}

impl Recorder {
    /// Makes the file, for its owner alone, and writes the first line. A name that ends in `.gz`
    /// makes it gzip. A file that is there already is an error: recordings are not made twice.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_up_to(path, MAX_BYTES)
    }

    fn create_up_to(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let out = if path.extension().is_some_and(|extension| extension == "gz") {
            Out::Gzip(BufWriter::new(GzEncoder::new(file, Compression::default())))
        } else {
            Out::Plain(BufWriter::new(file))
        };
        let mut recorder = Self {
            path: path.to_owned(),
            out: Some(out),
            written: 0,
            limit,
            step: None,
            busy: 0,
            stepped: 0,
            line: Vec::new(),
        };
        recorder.try_write(&Head {
            why502_recording: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
        })?;
        Ok(recorder)
    }

    /// Takes note of what the core is about to be fed.
    pub fn note(&mut self, input: &Input) {
        if self.out.is_none() {
            return;
        }
        if let Input::Advance { now } = *input {
            let busy = now.saturating_sub(self.busy) < EACH_STEP_NANOS;
            if busy || now.saturating_sub(self.stepped) >= QUIET_STEP_NANOS {
                self.write_step(now);
            } else {
                self.step = Some(now);
            }
            return;
        }
        if let Some(now) = self.step {
            self.write_step(now);
        }
        self.busy = self.stepped;
        self.write(input);
        if *input == Input::Finish {
            self.end();
        }
    }

    fn write_step(&mut self, now: Nanos) {
        self.step = None;
        self.stepped = now;
        self.write(&Input::Advance { now });
    }

    fn write(&mut self, line: &impl Serialize) {
        match self.try_write(line) {
            Err(error) => {
                self.out = None;
                tracing::warn!(path = %self.path.display(), %error, "the recording ends here: it cannot be written");
            }
            Ok(()) if self.written >= self.limit => {
                tracing::warn!(path = %self.path.display(), bytes = self.written, "the recording ends here: it is as long as it may get");
                self.end();
            }
            Ok(()) => {}
        }
    }

    fn try_write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let Self {
            out,
            written,
            line: text,
            ..
        } = self;
        let Some(out) = out else { return Ok(()) };
        text.clear();
        serde_json::to_writer(&mut *text, line)?;
        text.push(b'\n');
        *written += u64::try_from(text.len()).unwrap_or(u64::MAX);
        match out {
            Out::Plain(file) => file.write_all(text),
            Out::Gzip(file) => file.write_all(text),
        }
    }

    fn end(&mut self) {
        let Some(out) = self.out.take() else { return };
        if let Err(error) = out.finish() {
            tracing::warn!(path = %self.path.display(), %error, "the recording lacks its end: it cannot be written");
        }
    }
}

impl Out {
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut file) => file.flush(),
            Self::Gzip(file) => file
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .finish()
                .map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use agent_core::Input;
    use flate2::read::GzDecoder;

    use super::Recorder;

    const MS: u64 = 1_000_000;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("why502-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn step(ms: u64) -> Input {
        Input::Advance { now: ms * MS }
    }

    fn inputs(text: &str) -> Vec<Input> {
        let lines = text.lines().skip(1);
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn what_was_noted_is_read_again() {
        let path = path("again.jsonl.gz");
        let fed = [
            step(10_000),
            Input::ForgetProcess { tgid: 7 },
            Input::RecordsLost,
            Input::Finish,
        ];
        let mut recorder = Recorder::create(&path).unwrap();
        fed.iter().for_each(|input| recorder.note(input));

        let mut text = String::new();
        let mut file = GzDecoder::new(fs::File::open(&path).unwrap());
        file.read_to_string(&mut text).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        let again = Recorder::create(&path).unwrap_err();
        fs::remove_file(&path).unwrap();

        assert!(text.starts_with("{\"why502_recording\":2,"), "{text}");
        assert_eq!(inputs(&text), fed);
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn quiet_time_is_written_in_long_steps_and_its_last_step_before_what_follows() {
        let path = path("quiet.jsonl");
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.note(&step(10_000));
        recorder.note(&Input::RecordsLost);
        (10_020..=14_520)
            .step_by(20)
            .for_each(|ms| recorder.note(&step(ms)));
        recorder.note(&Input::Finish);

        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();

        let all = inputs(&text);
        let late = [
            step(11_980),
            step(12_980),
            step(13_980),
            step(14_520),
            Input::Finish,
        ];
        assert_eq!(all[..3], [step(10_000), Input::RecordsLost, step(10_020)]);
        assert_eq!(all[all.len() - 5..], late);
    }

    #[test]
    fn a_recording_ends_at_its_limit() {
        let path = path("limit.jsonl");
        let mut recorder = Recorder::create_up_to(&path, 200).unwrap();
        (0..100).for_each(|_| recorder.note(&Input::RecordsLost));

        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();

        assert!((200..220).contains(&text.len()), "{}", text.len());
        assert!(text.ends_with('\n'));
    }
}

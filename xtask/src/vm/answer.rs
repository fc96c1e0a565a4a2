//! What a kernel answered: the line that the tests' `guest` prints.

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

/// All of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Answer {
    /// As `uname -r` says.
    pub(super) release: String,
    /// What `why502 doctor --json` says; nothing when it was not reached.
    pub(super) doctor: Option<Doctor>,
    /// What came of each fault.
    pub(super) faults: Vec<Fault>,
    /// What is wrong on any kernel.
    pub(super) wrong: Vec<String>,
}

/// The doctor's word.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Doctor {
    /// Everything looked at, abilities among it.
    pub(super) findings: Vec<Finding>,
    /// Every program, as the verifier took it.
    pub(super) programs: Vec<Program>,
}

/// One thing looked at.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Finding {
    /// What.
    pub(super) name: String,
    /// `ok`, `off` or `FAIL`.
    pub(super) state: String,
    /// It is an ability of the agent.
    #[serde(rename = "ability")]
    pub(super) is_ability: bool,
    /// What it is good for, or why it is off.
    pub(super) words: String,
}

/// One program of the probes.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Program {
    /// Its name.
    pub(super) name: String,
    /// The kernel took it.
    pub(super) loaded: bool,
    /// Instructions the verifier walked.
    pub(super) verified_instructions: Option<u32>,
    /// To verify and to compile.
    pub(super) load_seconds: f64,
}

/// What came of one fault.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Fault {
    /// Which.
    pub(super) name: String,
    /// Status that the client got.
    pub(super) client: String,
    /// What the agent found.
    pub(super) agent: String,
}

impl Answer {
    /// Reads the line among others.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let line = text
            .lines()
            .find(|line| line.starts_with('{'))
            .ok_or_else(|| anyhow!("no answer in `{}`", text.trim()))?;
        serde_json::from_str(line).context("the answer of the guest is not as expected")
    }

    /// The abilities; what else is looked at is of the machine, not of the kernel.
    pub(super) fn abilities(&self) -> impl Iterator<Item = &Finding> {
        let doctor = self.doctor.as_ref();
        doctor
            .into_iter()
            .flat_map(|doctor| doctor.findings.iter().filter(|finding| finding.is_ability))
    }

    /// The programs.
    pub(super) fn programs(&self) -> &[Program] {
        self.doctor
            .as_ref()
            .map_or(&[], |doctor| doctor.programs.as_slice())
    }
}

impl Fault {
    /// What the client got and what the agent found, in one cell.
    pub(super) fn cell(&self) -> String {
        format!("{} {}", self.client, self.agent)
    }
}

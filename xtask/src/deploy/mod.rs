//! `manifests` and the step `deploy`: what is rolled out, judged by those who will read it.
//!
//! In: the files under `deploy/`. Out: nothing, or what is wrong. Helm renders the chart, kubectl
//! builds the Kustomize folders, every manifest is compared with the schemas of Kubernetes, the
//! compose file with that of Compose, and the unit is read by systemd. No cluster is needed, and
//! so nothing here shows that a cluster takes them.

mod manifests;
mod tools;
mod unit;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::host::scratch::Scratch;
use crate::host::{command, root};
use manifests::{CHART, DEFAULTS, EVERYTHING, OPERATED};
use tools::Tools;

const KUSTOMIZE: [&str; 2] = [
    "deploy/kustomize/base",
    "deploy/kustomize/overlays/prometheus-operator",
];

const COMPOSE: &str = "deploy/compose/compose.yaml";

/// A field of the manifests that is misspelt to see whether that is seen.
const A_FIELD: &str = "readOnlyRootFilesystem";

/// Values that the schema of the chart must refuse: a typing error must not go unseen.
const REFUSED: [&str; 6] = [
    r#"{"podMonitr": {"enabled": true}}"#,
    r#"{"port": "metrics"}"#,
    r#"{"seccompProfile": {"type": "None"}}"#,
    // Kubernetes takes them without CAP_.
    r#"{"extraCapabilities": ["CAP_SYS_ADMIN"]}"#,
    r#"{"image": {"digest": "latest"}}"#,
    // It has a value of its own.
    r#"{"podMonitor": {"endpoint": {"interval": "5s"}}}"#,
];

/// Writes what is made from other files.
pub(crate) fn write() -> Result<()> {
    manifests::write(&Tools::ensure()?)
}

/// Finds or fetches what the check needs.
pub(crate) fn ensure() -> Result<()> {
    Tools::ensure().map(drop)
}

/// Checks everything.
pub(crate) fn check() -> Result<()> {
    let tools = Tools::ensure()?;
    versions_are_the_workspaces()?;
    manifests::check(&tools)?;
    for values in [DEFAULTS, OPERATED, EVERYTHING] {
        command::run(tools.judge("lint").args([CHART, values]))?;
    }
    for values in REFUSED {
        let mut judge = tools.judge("render");
        if command::probe(judge.args([CHART, values])).is_some() {
            bail!("the chart takes the values {values}");
        }
    }
    let folder = Scratch::new("deploy")?;
    let mut files = Vec::new();
    for (name, values) in [
        ("helm-defaults", DEFAULTS),
        ("helm-operated", OPERATED),
        ("helm-everything", EVERYTHING),
    ] {
        let mut text = String::new();
        for (template, manifest) in manifests::render(&tools, values)? {
            if template.ends_with(".yaml") {
                text.push_str("---\n");
                text.push_str(&manifest);
                text.push('\n');
            }
        }
        files.push((name.to_owned(), text));
    }
    for overlay in KUSTOMIZE {
        let text = tools.kustomize(overlay.as_ref())?;
        files.push((overlay.replace('/', "-"), text));
    }
    for (name, text) in &files {
        asks_for_little(name, text)?;
    }
    let mut judge = tools.judge("kubernetes");
    for (name, text) in &files {
        let path = folder.path().join(format!("{name}.yaml"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        if text.contains(A_FIELD) {
            wrong_is_refused(&tools, "kubernetes", &folder, text)?;
        }
        judge.arg(path);
    }
    command::run(&mut judge)?;
    let compose = fs::read_to_string(root().join(COMPOSE))
        .with_context(|| format!("{COMPOSE} cannot be read"))?;
    wrong_is_refused(&tools, "compose", &folder, &compose)?;
    command::run(tools.judge("compose").arg(COMPOSE))?;
    unit::check()
}

/// The capabilities of a manifest, as long as no value asks for more.
const CAPABILITIES: &str = "add: [BPF, PERFMON, NET_ADMIN, SYS_PTRACE";

/// What no manifest may ask for, which capabilities it may, that no folder is mounted to be written,
/// and that what can be said once is.
fn asks_for_little(name: &str, text: &str) -> Result<()> {
    let has = |line: &str| text.lines().any(|found| found.trim() == line);
    for too_much in [
        "privileged: true",
        "hostNetwork: true",
        "hostIPC: true",
        "allowPrivilegeEscalation: true",
    ] {
        if has(too_much) {
            bail!("{name} asks for `{too_much}`");
        }
    }
    let more = if name == "helm-everything" {
        ", SYS_ADMIN, SYS_RESOURCE]"
    } else {
        "]"
    };
    // kubectl writes lists in another way; its folders are made from what Helm renders.
    if name.starts_with("helm-") && !has(&format!("{CAPABILITIES}{more}")) {
        bail!("{name} asks for other capabilities than `{CAPABILITIES}{more}`");
    }
    let count = |word: &str| text.matches(word).count();
    if count(" relabelings:") > 1 {
        bail!("{name} says `relabelings` twice");
    }
    if count("mountPath: ") != count(" readOnly: true") {
        bail!("{name} mounts a folder that can be written");
    }
    Ok(())
}

/// A judge is of use only if it refuses something: here a misspelt field.
fn wrong_is_refused(tools: &Tools, verb: &str, folder: &Scratch, text: &str) -> Result<()> {
    let wrong = text
        .replace(A_FIELD, "readOnlyRootFileSystem")
        .replace("read_only:", "readonly:");
    let path = folder.path().join("wrong.yaml");
    fs::write(&path, &wrong).with_context(|| format!("cannot write {}", path.display()))?;
    let taken = command::probe(tools.judge(verb).arg(&path)).is_some();
    if text == wrong || taken {
        bail!("the judge `{verb}` does not refuse a misspelt field");
    }
    Ok(())
}

/// The chart is of the version of the program.
fn versions_are_the_workspaces() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let path = format!("{CHART}/Chart.yaml");
    let chart = fs::read_to_string(root().join(&path)).with_context(|| format!("no {path}"))?;
    for line in [
        format!("version: {version}"),
        format!("appVersion: \"{version}\""),
    ] {
        if !chart.lines().any(|found| found == line) {
            bail!("{path} has no line `{line}`: the chart goes with the program");
        }
    }
    Ok(())
}

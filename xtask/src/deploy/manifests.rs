//! Manifests that are made from others: the chart's copies of rules and dashboards, and the
//! Kustomize files, which are what the chart renders.
//!
//! In: `dashboards/` and the chart. Out: texts by path. A chart cannot read outside its folder, and
//! what one source says must not be written by hand twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::tools::Tools;
use crate::host::{command, root};

/// The chart.
pub(super) const CHART: &str = "deploy/helm/why502";

/// The rules of `dashboards/`, and the chart's copy.
const RULES: (&str, &str) = (
    "dashboards/alerts/why502.rules.yml",
    "files/why502.rules.yaml",
);

const BASE: &str = "deploy/kustomize/base";
const OPERATOR: &str = "deploy/kustomize/overlays/prometheus-operator";

/// Everything that the default values make.
pub(super) const DEFAULTS: &str = "{}";

/// What the Prometheus operator and Grafana's sidecar read as well.
pub(super) const OPERATED: &str = r#"{"podMonitor": {"enabled": true},
    "prometheusRule": {"enabled": true}, "dashboards": {"enabled": true}}"#;

/// Everything that can be set, as no one would.
pub(super) const EVERYTHING: &str = r#"{
    "image": {"repository": "registry.example.com/why502", "pullPolicy": "Always",
        "digest": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
    "imagePullSecrets": [{"name": "registry"}], "fullnameOverride": "other", "port": 9999,
    "cgroupRoot": "/sys/fs/cgroup/unified", "api": "on",
    "web": {"existingSecret": "web", "tls": true},
    "kubernetes": {"enabled": true, "identityLabels": "workload"},
    "serviceAccount": {"annotations": {"a": "b"}},
    "extraCapabilities": ["SYS_ADMIN", "SYS_RESOURCE"],
    "tracefs": false,
    "seccompProfile": {"type": "Localhost", "localhostProfile": "why502.json"},
    "priorityClass": {"create": false, "name": "system-node-critical"},
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "edge", "operator": "Exists"}]}]}}},
    "podAnnotations": {"prometheus.io/scrape": "true"}, "podLabels": {"team": "edge"},
    "networkPolicy": {"from": []},
    "podMonitor": {"enabled": true, "labels": {"release": "p"}, "interval": "5s",
        "scrapeTimeout": "4s", "endpoint": {"scheme": "https", "relabelings":
            [{"action": "labeldrop", "regex": "pod"}]}},
    "prometheusRule": {"enabled": true, "labels": {"release": "p"}},
    "dashboards": {"enabled": true, "annotations": {"folder": "why502"}}}"#;

const MADE: &str = "# Made from deploy/helm/why502 by `cargo xtask manifests`: change it there.\n";

/// What a folder of Kustomize begins with; its files follow.
const KUSTOMIZATION: &str = "\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
";

/// Writes everything that is made, and removes what is made no more.
pub(super) fn write(tools: &Tools) -> Result<()> {
    // The copies first: the chart reads them.
    put(copies()?)?;
    put(rendered(tools)?)
}

fn put(made: Made) -> Result<()> {
    for stale in made.stale()? {
        fs::remove_file(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        println!("removed {}", stale.display());
    }
    for (path, text) in made.files {
        let to = root().join(&path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        if fs::read_to_string(&to).is_ok_and(|found| found == text) {
            continue;
        }
        fs::write(&to, text).with_context(|| format!("cannot write {path}"))?;
        println!("wrote {path}");
    }
    Ok(())
}

/// Everything that is made is as it would be made now.
pub(super) fn check(tools: &Tools) -> Result<()> {
    let mut count = 0;
    for made in [copies()?, rendered(tools)?] {
        if let Some(stale) = made.stale()?.first() {
            bail!(
                "{} is made no more: `cargo xtask manifests`",
                stale.display()
            );
        }
        for (path, text) in made.files {
            let found = fs::read_to_string(root().join(&path))
                .with_context(|| format!("{path} is missing: `cargo xtask manifests`"))?;
            if found != text {
                bail!("{path} is not what its source makes: `cargo xtask manifests`");
            }
            count += 1;
        }
    }
    println!("{count} files are what their sources make");
    Ok(())
}

/// What the chart renders with these values, by template.
pub(super) fn render(tools: &Tools, values: &str) -> Result<BTreeMap<String, String>> {
    let mut judge = tools.judge("render");
    let text = command::output(judge.args([CHART, values]))?;
    serde_json::from_str(&text).context("Helm's answer is not as expected")
}

/// Texts by path, and the folders that hold nothing else.
struct Made {
    files: BTreeMap<String, String>,
    /// Folder, and the ending of what is made in it.
    folders: Vec<(String, &'static str)>,
}

impl Made {
    fn stale(&self) -> Result<Vec<PathBuf>> {
        let mut stale = Vec::new();
        for (folder, ending) in &self.folders {
            let Ok(entries) = fs::read_dir(root().join(folder)) else {
                continue;
            };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let path = format!("{folder}/{name}");
                if name.ends_with(ending)
                    && name != "namespace.yaml"
                    && !self.files.contains_key(&path)
                {
                    stale.push(root().join(path));
                }
            }
        }
        Ok(stale)
    }
}

/// The chart's copies.
fn copies() -> Result<Made> {
    let mut files = BTreeMap::new();
    let (rules, copy) = RULES;
    if let Ok(text) = fs::read_to_string(root().join(rules)) {
        files.insert(format!("{CHART}/{copy}"), text);
    }
    let dashboards = format!("{CHART}/files/dashboards");
    for entry in fs::read_dir(root().join("dashboards"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(format!("{dashboards}/{name}"), text);
        }
    }
    Ok(Made {
        files,
        folders: vec![(dashboards, ".json"), (format!("{CHART}/files"), ".yaml")],
    })
}

/// The Kustomize files: base by the defaults, what needs the Prometheus operator in an overlay.
fn rendered(tools: &Tools) -> Result<Made> {
    let defaults = render(tools, DEFAULTS)?;
    let operated = render(tools, OPERATED)?;
    let mut lists = BTreeMap::from([
        (BASE, String::from("  - namespace.yaml\n")),
        (OPERATOR, String::from("  - ../../base\n")),
    ]);
    let mut files = BTreeMap::new();
    for (template, text) in operated {
        let Some(name) = Path::new(&template)
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.ends_with(".yaml"))
        else {
            continue;
        };
        if text.trim().is_empty() {
            continue;
        }
        let of_base = defaults
            .get(&template)
            .is_some_and(|text| !text.trim().is_empty());
        let folder = if of_base { BASE } else { OPERATOR };
        let text = text.trim_start_matches(['\n', ' ']).trim_end();
        if let Some(list) = lists.get_mut(folder) {
            list.push_str(&format!("  - {name}\n"));
        }
        files.insert(format!("{folder}/{name}"), format!("{MADE}{text}\n"));
    }
    for (folder, list) in lists {
        files.insert(
            format!("{folder}/kustomization.yaml"),
            format!("{MADE}{KUSTOMIZATION}{list}"),
        );
    }
    Ok(Made {
        files,
        folders: vec![(BASE.to_owned(), ".yaml"), (OPERATOR.to_owned(), ".yaml")],
    })
}

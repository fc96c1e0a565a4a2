//! Settings of `why502 run`: what can be set, what it is when nobody says, what is refused.
//!
//! In: a TOML file and flags. Out: [`Settings`], checked. A setting has one name and one
//! meaning in both; `ring_bytes` in the file is `--ring-bytes` as a flag, and a flag wins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use agent_core::Limits;
use agent_wire::limits::DEFAULT_RING_BYTES;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::names::Pattern;

/// Where metrics are served when the operator says nothing. Loopback: what the agent knows
/// (paths, hosts, addresses) is for the node's own scraper until someone decides otherwise.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9502);

/// Upstreams with series of their own. Too small: upstreams hide in `other`. Too large: an
/// upstream costs up to about 40 series, and the scraper pays for each.
const DEFAULT_MAX_UPSTREAMS: usize = 1000;

/// Proxies with series of their own. Too small: they hide in `other`. Too large: so many series.
const DEFAULT_MAX_PROXIES: usize = 64;

/// Incidents kept. Too small: one asks too late. Too large: memory, up to 8 KiB each.
const DEFAULT_INCIDENTS: usize = 1000;

/// Values of the label `upstream` that name none: beyond the bound, and errors without an upstream.
const RESERVED_UPSTREAMS: [&str; 2] = ["other", "none"];

/// Incidents kept at most: with 8 KiB each, most of a gigabyte.
const MAX_INCIDENTS: usize = 100_000;

/// A page, the least a ring buffer can be, bytes.
const MIN_RING_BYTES: u32 = 4096;

/// The most a ring buffer can be here, bytes: it is locked memory.
const MAX_RING_BYTES: u32 = 1 << 30;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address and port of metrics and events.
    pub listen: SocketAddr,
    /// Passwords, TLS and headers of what is served, in the format of Prometheus' exporters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_config_file: Option<PathBuf>,
    /// Whether `/api/` is served.
    pub api: ApiAccess,
    /// The cgroup v2 directory whose processes are watched; the root of the mount when unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// At which cgroups in it the packet programs are attached.
    pub attach: Attach,
    /// Of proxies at which nothing goes wrong, exchanges that go well are counted and not followed.
    pub brief: bool,
    /// Size of the ring buffer between kernel and daemon, bytes.
    pub ring_bytes: u32,
    /// How many upstreams have series of their own; the rest is `upstream="other"`.
    pub max_upstreams: usize,
    /// How many proxies have series of their own; the rest is `proxy="other"`.
    pub max_proxies: usize,
    /// How many explained errors are kept with their evidence for `why502 explain`, the last
    /// ones; up to 8 KiB of memory each.
    pub incidents: usize,
    /// After so many exchanges of a process that is no proxy its connections are not looked at for
    /// a minute; 0 for never.
    pub bystander_exchanges: u32,
    /// Names of pods and services are asked of the Kubernetes API server.
    pub kubernetes: bool,
    /// The Kubernetes node this is; pods of other nodes are not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes_node: Option<String>,
    /// How much of that is in labels of gateway and upstream metrics.
    pub identity_labels: IdentityLabels,
    /// Whether the kernel's connection tracking is heard, which says where translated addresses lead.
    pub conntrack: Conntrack,
    /// Rights that are not needed once the probes are attached are given up.
    pub drop_capabilities: bool,
    /// System calls that start programs or change something are refused from then on.
    pub seccomp: bool,
    /// How much the daemon logs.
    pub log_level: LogLevel,
    /// In which form.
    pub log_format: LogFormat,
    /// How much the kernel side logs; unset, its log calls are not even loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_log: Option<ProbeLogLevel>,
    /// Executables that are proxies although nobody knows their name.
    pub include_processes: BTreeSet<String>,
    /// Executables to leave alone.
    pub exclude_processes: BTreeSet<String>,
    /// Executable name to the `proxy` label.
    pub proxy_names: BTreeMap<String, String>,
    /// Address, network, host with port, or Unix socket of upstreams to the `upstream` label.
    pub upstream_names: BTreeMap<String, String>,
}

/// How much of what Kubernetes knows is in labels; each level has those before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum IdentityLabels {
    /// Nothing.
    None,
    /// `proxy_namespace`, `upstream_namespace`.
    Namespace,
    /// And `proxy_workload`.
    Workload,
    /// And `proxy_pod`, `upstream_pod`.
    Pod,
}

/// At which cgroups the packet programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// At those of proxies, as they come and go, and of the upstreams on this host that they talk to.
    Proxies,
    /// At the one that is watched, with all in it.
    Everywhere,
}

/// Whether connection tracking is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Conntrack {
    /// With names from Kubernetes, whose Services have addresses that are translated.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// Whether `/api/` is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ApiAccess {
    /// Where only this host can ask, or whoever asks has a password or a certificate.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// How much the daemon logs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops or degrades the agent.
    Error,
    /// What the operator should look at.
    Warn,
    /// Start, stop, what is watched.
    Info,
    /// Every decision of the daemon.
    Debug,
    /// Everything, other crates included.
    Trace,
}

/// In which form the daemon logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much the kernel side logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProbeLogLevel {
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And notes.
    Info,
    /// And every decision.
    Debug,
}

/// Why settings were refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; check the path given to --config")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what is expected.
    #[error("cannot use the configuration {path}, line {line} (`{text}`): {reason}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value makes no sense.
    #[error("{key} = {value}: {reason}")]
    Invalid {
        /// Which setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is wrong, and what would do.
        reason: &'static str,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            web_config_file: None,
            api: ApiAccess::Auto,
            cgroup: None,
            attach: Attach::Everywhere,
            brief: false,
            ring_bytes: DEFAULT_RING_BYTES,
            max_upstreams: DEFAULT_MAX_UPSTREAMS,
            max_proxies: DEFAULT_MAX_PROXIES,
            incidents: DEFAULT_INCIDENTS,
            bystander_exchanges: Limits::default().bystander_exchanges,
            kubernetes: false,
            kubernetes_node: None,
            identity_labels: IdentityLabels::None,
            conntrack: Conntrack::Auto,
            drop_capabilities: true,
            seccomp: true,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            probe_log: None,
            include_processes: BTreeSet::new(),
            exclude_processes: BTreeSet::new(),
            proxy_names: BTreeMap::new(),
            upstream_names: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Reads a file; what it does not set keeps its default.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has an unknown key (the message has its line).
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|error| {
            // The error's own text draws the line below itself; a log wants one line.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.unwrap_or_default().matches('\n').count();
            ConfigError::Parse {
                path: path.to_owned(),
                line: line + 1,
                text: text.lines().nth(line).unwrap_or_default().trim().to_owned(),
                reason: error.message().replace('\n', " "),
            }
        })
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The settings as a file that would give them.
    ///
    /// # Errors
    /// A path that is not UTF-8 has no TOML form.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Whether connection tracking is heard.
    pub fn hears_conntrack(&self) -> bool {
        match self.conntrack {
            Conntrack::Auto => self.kubernetes,
            Conntrack::On => true,
            Conntrack::Off => false,
        }
    }

    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// Names the setting, the value, and what would do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self {
            listen: _,
            web_config_file: _,
            api: _,
            cgroup,
            attach: _,
            brief: _,
            ring_bytes,
            max_upstreams,
            max_proxies,
            incidents,
            bystander_exchanges: _,
            kubernetes,
            kubernetes_node,
            identity_labels,
            conntrack: _,
            drop_capabilities: _,
            seccomp: _,
            log_level: _,
            log_format: _,
            probe_log: _,
            include_processes,
            exclude_processes,
            proxy_names,
            upstream_names,
        } = self;

        if !ring_bytes.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(ring_bytes)
        {
            return Err(invalid(
                "ring_bytes",
                ring_bytes,
                "must be a power of two from 4096 to 1073741824, for example 8388608",
            ));
        }
        if *max_upstreams == 0 {
            return Err(invalid(
                "max_upstreams",
                max_upstreams,
                "must be at least 1",
            ));
        }
        if *max_proxies == 0 {
            return Err(invalid("max_proxies", max_proxies, "must be at least 1"));
        }
        if *incidents > MAX_INCIDENTS {
            return Err(invalid(
                "incidents",
                incidents,
                "must be from 0 (none are kept) to 100000",
            ));
        }
        if *kubernetes && kubernetes_node.as_ref().is_none_or(String::is_empty) {
            return Err(invalid(
                "kubernetes_node",
                kubernetes_node.as_deref().unwrap_or("(unset)"),
                "must be the name of this node: set --kubernetes-node, or the environment variable NODE_NAME from spec.nodeName",
            ));
        }
        if !*kubernetes && *identity_labels != IdentityLabels::None {
            return Err(invalid(
                "identity_labels",
                format_args!("{identity_labels:?}")
                    .to_string()
                    .to_lowercase(),
                "comes from Kubernetes: set kubernetes = true, or leave it at none",
            ));
        }
        if let Some(path) = cgroup.as_ref().filter(|path| !path.is_absolute()) {
            return Err(invalid(
                "cgroup",
                path.display(),
                "must be an absolute path inside the cgroup v2 mount, for example /sys/fs/cgroup",
            ));
        }
        for name in include_processes
            .iter()
            .chain(exclude_processes)
            .chain(proxy_names.keys())
        {
            if name.is_empty() || name.contains('/') {
                return Err(invalid(
                    "executable name",
                    name,
                    "must be the file name of an executable without its folder, for example nginx",
                ));
            }
        }
        if let Some(name) = include_processes.intersection(exclude_processes).next() {
            return Err(invalid(
                "include_processes",
                name,
                "is in exclude_processes as well; keep it in one of them",
            ));
        }
        if let Some((name, _)) = proxy_names.iter().find(|(_, label)| label.is_empty()) {
            return Err(invalid("proxy_names", name, "has an empty label"));
        }
        let mut patterns = BTreeMap::new();
        for (address, name) in upstream_names {
            let refused = |reason| Err(invalid("upstream_names", address, reason));
            let pattern = match Pattern::parse(address) {
                Ok(pattern) => pattern,
                Err(reason) => return refused(reason),
            };
            if name.is_empty() {
                return refused("has an empty name");
            }
            if RESERVED_UPSTREAMS.contains(&name.as_str()) {
                return refused("has the name `other` or `none`, which the agent uses itself");
            }
            if patterns.insert(format!("{pattern:?}"), name).is_some() {
                return refused("is there already, written in another way; keep one of them");
            }
        }
        Ok(())
    }
}

impl LogLevel {
    /// The directive of this level for the log filter.
    pub fn directive(self) -> &'static str {
        match self {
            Self::Off => "off",
            // kube logs each request that fails as an error; the agent tells when that changes.
            Self::Error => "error,kube_client=off",
            Self::Warn => "warn,kube_client=off",
            Self::Info => "info,kube_client=off",
            // Debug is about this program; the HTTP and eBPF libraries stay at info.
            Self::Debug => "info,agent=debug,agent_core=debug,kube_client=off",
            Self::Trace => "trace",
        }
    }
}

fn invalid(key: &'static str, value: impl ToString, reason: &'static str) -> ConfigError {
    ConfigError::Invalid {
        key,
        value: value.to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, ProbeLogLevel, Settings};

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        Settings::default().check().unwrap();
    }

    #[test]
    fn printed_settings_read_back_as_they_were() {
        let settings = Settings::parse(
            "listen = \"0.0.0.0:9000\"\nring_bytes = 65536\nlog_format = \"json\"\nprobe_log = \"debug\"\n\
             cgroup = \"/sys/fs/cgroup/web\"\nexclude_processes = [\"curl\"]\n\
             [proxy_names]\n\"nginx-plus\" = \"nginx\"\n[upstream_names]\n\"10.0.3.17:8080\" = \"orders\"\n",
        )
        .unwrap();

        let again = Settings::parse(&settings.to_toml().unwrap()).unwrap();

        assert_eq!(again, settings);
        assert_eq!(again.log_format, LogFormat::Json);
        assert_eq!(again.probe_log, Some(ProbeLogLevel::Debug));
        again.check().unwrap();
    }

    #[test]
    fn the_example_is_of_defaults_and_has_every_setting() {
        let example = include_str!("../../../deploy/why502.example.toml");
        // A setting is switched off by a bare #, a sentence begins after a space.
        let switched_on: String = example
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut full = Settings::parse(&switched_on).unwrap();
        full.check().unwrap();
        full.probe_log = Some(ProbeLogLevel::Error);
        let keys = toml::Table::try_from(&full).unwrap();
        for key in keys.keys().filter(|key| *key != "probe_log") {
            let named = switched_on
                .lines()
                .any(|line| line.starts_with(&format!("{key} =")) || line == format!("[{key}]"));
            assert!(named, "why502.example.toml does not say {key}");
        }

        assert_eq!(Settings::parse(example).unwrap(), Settings::default());
        let Settings {
            cgroup,
            web_config_file,
            kubernetes_node,
            include_processes,
            exclude_processes,
            proxy_names,
            upstream_names,
            ..
        } = full.clone();
        let others = Settings {
            cgroup,
            web_config_file,
            kubernetes_node,
            include_processes,
            exclude_processes,
            proxy_names,
            upstream_names,
            probe_log: full.probe_log,
            ..Settings::default()
        };
        assert_eq!(full, others, "what is a default there is one");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_key_and_line() {
        let error = Settings::parse("max_upstreams = 5\nmax_upstream = 5\n")
            .unwrap_err()
            .to_string();

        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("max_upstream`"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_an_error_with_its_line() {
        let error = Settings::parse("\n\nlisten = \"nine\"\n")
            .unwrap_err()
            .to_string();

        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_what_would_do() {
        for (text, words) in [
            ("ring_bytes = 5000", "power of two"),
            ("ring_bytes = 2048", "power of two"),
            ("max_upstreams = 0", "at least 1"),
            ("max_proxies = 0", "at least 1"),
            ("incidents = 100001", "0 (none are kept) to 100000"),
            ("cgroup = \"web\"", "absolute"),
            ("kubernetes = true", "NODE_NAME"),
            ("identity_labels = \"pod\"", "kubernetes = true"),
            ("include_processes = [\"/usr/bin/x\"]", "without its folder"),
            (
                "include_processes = [\"x\"]\nexclude_processes = [\"x\"]",
                "one of them",
            ),
            ("[proxy_names]\nx = \"\"", "empty label"),
            ("[upstream_names]\norders = \"x\"", "address:port"),
            ("[upstream_names]\n\"10.0.0.1:80\" = \"\"", "empty name"),
            ("[upstream_names]\n\"10.0.0.1/8\" = \"x\"", "first address"),
            (
                "[upstream_names]\n\"::ffff:10.0.0.0/104\" = \"x\"",
                "as IPv4",
            ),
            (
                "[upstream_names]\n\"10.0.0.1:80\" = \"other\"",
                "uses itself",
            ),
            (
                "[upstream_names]\n\"DB.internal:80\" = \"x\"\n\"db.internal:80\" = \"y\"",
                "another way",
            ),
            (
                "[upstream_names]\n\"[::ffff:10.0.0.1]:80\" = \"x\"\n\"10.0.0.1:80\" = \"y\"",
                "another way",
            ),
        ] {
            let error = Settings::parse(text)
                .unwrap()
                .check()
                .unwrap_err()
                .to_string();

            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

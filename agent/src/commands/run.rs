//! `why502 run`: the daemon.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::attachment::Attachment;
use crate::clock;
use crate::config::{
    ApiAccess, Attach, ConfigError, Conntrack, IdentityLabels, LogFormat, LogLevel, ProbeLogLevel,
    Settings,
};
use crate::events::EventStream;
use crate::exporter::web::Web;
use crate::exporter::{self, Opening, Service};
use crate::identity::conntrack::Translations;
use crate::identity::kubernetes;
use crate::incidents::Incidents;
use crate::kernel::{Options, ProbeLog, Probes};
use crate::memory;
use crate::metrics::Metrics;
use crate::pipeline::{self, Pipeline, Sinks};
use crate::privileges::{self, Confinement, Needs};
use crate::processes::Processes;
use crate::recording::Recorder;

/// What `--help` says first.
pub(super) const LONG_ABOUT: &str = "\
Watch this machine and serve metrics and events.

Proxies are found by what they do: a process that takes requests and sends requests. Known \
gateways (nginx, haproxy, httpd, envoy, caddy, traefik, varnishd, openresty, angie, tengine) are \
known from the start.

It needs root, or the capabilities BPF, PERFMON and NET_ADMIN, and for all its abilities \
SYS_PTRACE as well; kernels before 5.11 (on arm64 before 6.4), and some others, up to three more: \
`why502 doctor` names them (docs/security.md). Most of them it gives up once the \
probes are attached. SIGTERM and SIGINT end it; \
everything is detached from the kernel then, and also when it is killed.

Every setting can stand in a TOML file (--config) under the name of its flag, with _ for -; \
one that can be repeated is a list or a table there, in the plural. A flag wins over the file; lists \
and tables are joined, and where both name the same key the flag wins. --print-config shows what comes out of both.

--record is for a bug report and for tests, and is of one run only: it has no place in the file. What \
is written is what the verdicts are made of, so that someone else can see them made: addresses, \
times, byte counts, names of processes, and of each request method, path, Host, status and \
trace ids. Never in it: bodies, queries, cookies, any other header.";

/// What `--help` says last.
pub(super) const EXAMPLES: &str = "\
Examples:
  sudo why502 run
  sudo why502 run --listen 0.0.0.0:9502 --max-upstreams 200
  sudo why502 run --proxy-name edge-proxy=edge --upstream-name 10.0.3.17:8080=orders
  why502 run --config /etc/why502.toml --print-config
  sudo why502 run --record report.jsonl.gz

A file:
  listen = \"0.0.0.0:9502\"
  exclude_processes = [\"curl\"]
  [proxy_names]
  edge-proxy = \"edge\"
  [upstream_names]
  \"10.0.3.17:8080\" = \"orders\"
  \"10.0.4.0/24\" = \"reports\"
  \"db.internal:5432\" = \"db\"
  \"unix:/run/app.sock\" = \"app\"";

/// Flags of `run`.
#[derive(Debug, Default, Args)]
pub(super) struct Arguments {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force as TOML, and exit
    #[arg(long)]
    print_config: bool,
    /// Serve metrics and events here [default: 127.0.0.1:9502]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Ask for passwords and speak TLS as this file says, in the format of Prometheus' exporters
    /// (docs/security.md)
    #[arg(long, value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Serve events and incidents, which tell paths and addresses; auto: only to this host, or to
    /// whoever has a password or a client certificate [default: auto]
    #[arg(long, value_name = "WHEN")]
    api: Option<ApiAccess>,
    /// Watch only the processes in this cgroup v2 directory [default: the root, all processes]
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Look at the packets of proxies and of their upstreams on this host, by their cgroups, or at those
    /// of all processes [default: everywhere]
    #[arg(long, value_name = "WHERE")]
    attach: Option<Attach>,
    /// Count exchanges that go well, and follow them only where something went wrong a moment ago [default:
    /// false]
    #[arg(long, value_name = "BOOL")]
    brief: Option<bool>,
    /// Size of the ring buffer between kernel and daemon, a power of two [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    ring_bytes: Option<u32>,
    /// Upstreams with series of their own; the rest is upstream="other" [default: 1000]
    #[arg(long, value_name = "COUNT")]
    max_upstreams: Option<usize>,
    /// Proxies with series of their own; the rest is proxy="other" [default: 64]
    #[arg(long, value_name = "COUNT")]
    max_proxies: Option<usize>,
    /// Explained errors kept for `why502 explain`, the last ones, up to 8 KiB each [default: 1000]
    #[arg(long, value_name = "COUNT")]
    incidents: Option<usize>,
    /// After so many exchanges of a process that is no proxy, do not look at its connections for a
    /// minute; 0: always look [default: 2000]
    #[arg(long, value_name = "COUNT")]
    bystander_exchanges: Option<u32>,
    /// Call this executable by this name in the label `proxy`, and take it for a proxy (repeatable)
    #[arg(long = "proxy-name", value_name = "EXECUTABLE=LABEL", value_parser = pair)]
    proxy_names: Vec<(String, String)>,
    /// Call these upstreams by this name in the label `upstream`: address:port, a network as
    /// 10.0.0.0/8 or 10.0.0.0/8:8080, host:port (looked up every minute) or unix:/path; the longest
    /// match wins, and of two as long the one with a port (repeatable)
    #[arg(long = "upstream-name", value_name = "UPSTREAM=NAME", value_parser = pair)]
    upstream_names: Vec<(String, String)>,
    /// Take this executable for a proxy from the start (repeatable)
    #[arg(long = "include-process", value_name = "EXECUTABLE")]
    include_processes: Vec<String>,
    /// Leave this executable alone (repeatable)
    #[arg(long = "exclude-process", value_name = "EXECUTABLE")]
    exclude_processes: Vec<String>,
    /// Ask the Kubernetes API server for names of pods and services: from within a pod as its service
    /// account, else as KUBECONFIG says
    #[arg(long)]
    kubernetes: bool,
    /// The Kubernetes node this is [default: the environment variable NODE_NAME]
    #[arg(long, value_name = "NAME")]
    kubernetes_node: Option<String>,
    /// Put namespaces, workloads or pods into labels of their own; each level has those before it
    /// [default: none]
    #[arg(long, value_name = "LEVEL")]
    identity_labels: Option<IdentityLabels>,
    /// Hear from the kernel's connection tracking where translated addresses lead, as those of Services
    /// do; auto: with --kubernetes [default: auto]
    #[arg(long, value_name = "WHEN")]
    conntrack: Option<Conntrack>,
    /// Give up what rights are not needed once the probes are attached [default: true]
    #[arg(long, value_name = "BOOL")]
    drop_capabilities: Option<bool>,
    /// From then on refuse system calls that start programs or change something [default: true]
    #[arg(long, value_name = "BOOL")]
    seccomp: Option<bool>,
    /// How much the daemon logs [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// In which form the daemon logs [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Have the probes log as well; costs time on every packet [default: off]
    #[arg(long, value_name = "LEVEL")]
    probe_log: Option<ProbeLogLevel>,
    /// Write down what verdicts are made of, for a bug report or a test: a new file of JSON lines
    /// (gzip if its name ends in .gz), up to 256 MiB of text
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Attach the probes and let them do nothing, to measure what that costs
    #[arg(long, hide = true)]
    idle_probes: bool,
}

/// Runs until a signal comes.
pub(super) fn run(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    let print = std::mem::take(&mut arguments.print_config);
    let record = arguments.record.take();
    let idle = arguments.idle_probes;
    let settings = arguments.settings()?;
    if print {
        print!(
            "{}",
            settings
                .to_toml()
                .context("the settings have no TOML form")?
        );
        return Ok(ExitCode::SUCCESS);
    }
    start_log(
        settings.log_level,
        settings.log_format,
        settings.probe_log.is_some(),
    );
    memory::keep_little();
    // One thread does it all but writing the metrics: the pipeline is one task, and the
    // exporter only waits.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(&settings, idle, record.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: &Settings, idle: bool, record: Option<&Path>) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let listener = exporter::listen(settings.listen).await?;
    let web = Web::read(settings.web_config_file.as_deref())?;
    let recorder = record.map(recorder).transpose()?;
    if let Some(refusal) = Needs::here(false).refusal() {
        bail!(refusal);
    }
    let directory = match &settings.kubernetes_node {
        Some(node) if settings.kubernetes => Some(kubernetes::connect(node).await?),
        _ => None,
    };
    let mut probes = Probes::load(&options(settings, idle))?;
    // Loading read all types of the kernel.
    memory::give_back();
    for ability in probes
        .capabilities()
        .iter()
        .filter(|ability| !ability.available)
    {
        let reason = ability
            .reason
            .as_deref()
            .unwrap_or("the kernel does not say why");
        tracing::warn!(
            ability = ability.name,
            reason,
            "an ability is off; `why502 doctor` says more"
        );
    }
    if let Some(reason) = probes.why_tracepoints() {
        tracing::info!(reason, "connects are seen at tracepoints");
    }
    for (capability, without) in Needs::here(probes.uses_tracepoints()).shortcomings() {
        tracing::warn!(
            capability,
            without,
            "a right is missing; `why502 doctor` says how to give it"
        );
    }
    let translations = translations(settings);
    let processes = Processes::new(settings);
    let attachment = attachment(settings, &processes, &mut probes)?;
    give_up_rights(settings, &probes)?;
    // It is read again whenever it changes.
    web.check()
        .context("without the rights that were given up")?;

    let Metrics {
        registry,
        traffic,
        report,
        entries: _,
    } = Metrics::new(settings);
    let stream = EventStream::new();
    traffic.names().resolve();
    let incidents = Incidents::new(settings).named_by(traffic.names().clone());
    let turned_away = Arc::new(AtomicU64::new(0));
    let ready = Arc::new(AtomicBool::new(true));
    let (questions, asked) = pipeline::questions();
    let address = listener.local_addr().unwrap_or(settings.listen);
    let service = Service {
        registry,
        report: report.clone(),
        stream: stream.clone(),
        incidents: incidents.clone(),
        pipeline: questions,
        ready: Arc::clone(&ready),
        turned_away: Arc::clone(&turned_away),
        web,
        opening: Opening {
            api: settings.api,
            is_loopback: address.ip().to_canonical().is_loopback(),
        },
    };
    let pipeline = Pipeline::new(
        probes,
        settings,
        Sinks {
            traffic,
            report,
            stream,
            incidents,
            turned_away,
            recorder,
            directory,
            translations,
            processes,
            attachment: Some(attachment),
        },
    );
    let server = tokio::spawn(exporter::serve(listener, Arc::new(service)));
    let trimming = tokio::spawn(memory::keep_giving_back());
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "watching; metrics at /metrics, events at /api/v1/events, incidents at /api/v1/incidents");

    let stopped = async {
        let name = stop.await;
        tracing::info!(signal = name, "stopping: draining what is left");
        ready.store(false, Ordering::Relaxed);
        server.abort();
        trimming.abort();
    };
    pipeline.run(asked, stopped).await;
    tracing::info!("stopped; the probes are detached");
    Ok(())
}

/// What is attached for the proxies that run. Where nothing will be attached later, nothing can be.
fn attachment(
    settings: &Settings,
    processes: &Processes,
    probes: &mut Probes,
) -> anyhow::Result<Attachment> {
    let watched = probes.watched().to_owned();
    let now = clock::monotonic();
    let attachment = Attachment::begin(settings.attach, &watched, processes, probes, now)?;
    if attachment.is_final() {
        probes.attach_no_more();
    }
    Ok(attachment)
}

/// What is heard of connection tracking; `None` where that is not wanted, or nobody asked for it and
/// it cannot be had. That nothing is heard stops nothing.
fn translations(settings: &Settings) -> Option<Translations> {
    let wanted = settings.conntrack == Conntrack::On;
    match settings.hears_conntrack().then(Translations::open)? {
        Ok(translations) => Some(translations),
        Err(reason) if wanted => {
            tracing::warn!(ability = "conntrack", %reason, "an ability is off; `why502 doctor --conntrack` says more");
            Some(Translations::unavailable())
        }
        Err(reason) => {
            tracing::info!(%reason, "endpoints of translated addresses are not told; `why502 doctor --conntrack` says more");
            None
        }
    }
}

fn recorder(path: &Path) -> anyhow::Result<Recorder> {
    Recorder::create(path).with_context(|| {
        format!(
            "cannot record to {}: name a file that is not there yet, in a folder that is",
            path.display()
        )
    })
}

/// What was needed to attach is not needed to read.
fn give_up_rights(settings: &Settings, probes: &Probes) -> anyhow::Result<()> {
    if settings.drop_capabilities {
        let kept = privileges::shed(|| probes.tally(0).is_ok())
            .context("set drop_capabilities = false to go on with all rights")?;
        tracing::info!(kept = kept.names.join(","), "capabilities given up");
    }
    if settings.seccomp
        && let Err(error) = privileges::refuse_changes()
    {
        tracing::warn!(%error, "no filter for system calls (seccomp): the agent goes on without it");
    }
    Ok(())
}

/// Ready when the process is asked to end; its value is the signal's name.
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// `probes`: their lines pass whatever the level of the daemon's own.
fn start_log(level: LogLevel, format: LogFormat, probes: bool) {
    let mut filter = filter(level);
    if probes {
        filter = filter.with_target("agent_ebpf", LevelFilter::TRACE);
    }
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(level >= LogLevel::Debug);
    match format {
        LogFormat::Text => log.finish().with(filter).init(),
        LogFormat::Json => log.json().finish().with(filter).init(),
    }
}

fn filter(level: LogLevel) -> Targets {
    let parsed = level.directive().parse();
    parsed.unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}

fn options(settings: &Settings, idle: bool) -> Options {
    let probe_log = settings.probe_log.map(|level| match level {
        ProbeLogLevel::Error => ProbeLog::Error,
        ProbeLogLevel::Warn => ProbeLog::Warn,
        ProbeLogLevel::Info => ProbeLog::Info,
        ProbeLogLevel::Debug => ProbeLog::Debug,
    });
    Options {
        cgroup: settings.cgroup.clone(),
        ring_bytes: settings.ring_bytes,
        probe_log,
        idle,
        in_brief: settings.brief,
        confinement: Confinement {
            capabilities: settings.drop_capabilities,
            system_calls: settings.seccomp,
        },
    }
}

impl Arguments {
    /// The file, and the flags over it. A flag added above must be dealt with here.
    fn settings(self) -> Result<Settings, ConfigError> {
        let Self {
            config,
            print_config: _,
            listen,
            web_config_file,
            api,
            cgroup,
            attach,
            brief,
            ring_bytes,
            max_upstreams,
            max_proxies,
            incidents,
            bystander_exchanges,
            proxy_names,
            upstream_names,
            include_processes,
            exclude_processes,
            kubernetes,
            kubernetes_node,
            identity_labels,
            conntrack,
            drop_capabilities,
            seccomp,
            log_level,
            log_format,
            probe_log,
            record: _,
            idle_probes: _,
        } = self;
        let mut settings = match config {
            Some(path) => Settings::read(&path)?,
            None => Settings::default(),
        };
        settings.listen = listen.unwrap_or(settings.listen);
        settings.web_config_file = web_config_file.or(settings.web_config_file);
        settings.api = api.unwrap_or(settings.api);
        settings.cgroup = cgroup.or(settings.cgroup);
        settings.attach = attach.unwrap_or(settings.attach);
        settings.brief = brief.unwrap_or(settings.brief);
        settings.ring_bytes = ring_bytes.unwrap_or(settings.ring_bytes);
        settings.max_upstreams = max_upstreams.unwrap_or(settings.max_upstreams);
        settings.max_proxies = max_proxies.unwrap_or(settings.max_proxies);
        settings.incidents = incidents.unwrap_or(settings.incidents);
        settings.bystander_exchanges = bystander_exchanges.unwrap_or(settings.bystander_exchanges);
        settings.proxy_names.extend(proxy_names);
        settings.upstream_names.extend(upstream_names);
        settings.include_processes.extend(include_processes);
        settings.exclude_processes.extend(exclude_processes);
        settings.kubernetes |= kubernetes;
        settings.kubernetes_node = kubernetes_node.or(settings.kubernetes_node).or_else(|| {
            std::env::var("NODE_NAME")
                .ok()
                .filter(|_| settings.kubernetes)
        });
        settings.identity_labels = identity_labels.unwrap_or(settings.identity_labels);
        settings.conntrack = conntrack.unwrap_or(settings.conntrack);
        settings.drop_capabilities = drop_capabilities.unwrap_or(settings.drop_capabilities);
        settings.seccomp = seccomp.unwrap_or(settings.seccomp);
        settings.log_level = log_level.unwrap_or(settings.log_level);
        settings.log_format = log_format.unwrap_or(settings.log_format);
        settings.probe_log = probe_log.or(settings.probe_log);
        settings.check()?;
        Ok(settings)
    }
}

/// `key=value`. The last `=` parts them: a Unix path may hold one, a name may not.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("write it as key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::{Arguments, LogLevel, filter, pair};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &[&str]) -> Arguments {
        Line::parse_from([&["run"], line].concat()).arguments
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let path = std::env::temp_dir().join(format!("why502-flags-{}.toml", std::process::id()));
        fs::write(
            &path,
            "max_upstreams = 5\nmax_proxies = 6\nexclude_processes = [\"curl\"]\n[proxy_names]\na = \"file\"\nb = \"file\"\n",
        )
        .unwrap();
        let line = [
            "--config",
            path.to_str().unwrap(),
            "--max-upstreams",
            "7",
            "--proxy-name",
            "a=flag",
            "--exclude-process",
            "wget",
        ];

        let settings = arguments(&line).settings().unwrap();

        fs::remove_file(&path).unwrap();
        assert_eq!((settings.max_upstreams, settings.max_proxies), (7, 6));
        assert_eq!(
            (&*settings.proxy_names["a"], &*settings.proxy_names["b"]),
            ("flag", "file")
        );
        assert_eq!(
            settings.exclude_processes.iter().collect::<Vec<_>>(),
            ["curl", "wget"]
        );
    }

    #[test]
    fn every_log_level_is_a_filter_of_its_own() {
        let shows =
            |level, target: &str, at: tracing::Level| filter(level).would_enable(target, &at);

        assert!(!shows(LogLevel::Off, "agent", tracing::Level::ERROR));
        assert!(shows(LogLevel::Error, "agent", tracing::Level::ERROR));
        assert!(!shows(LogLevel::Error, "agent", tracing::Level::WARN));
        assert!(shows(LogLevel::Warn, "agent", tracing::Level::WARN));
        assert!(!shows(LogLevel::Info, "agent", tracing::Level::DEBUG));
        assert!(shows(
            LogLevel::Debug,
            "agent::pipeline",
            tracing::Level::DEBUG
        ));
        assert!(!shows(LogLevel::Debug, "hyper", tracing::Level::DEBUG));
        assert!(shows(LogLevel::Trace, "hyper", tracing::Level::TRACE));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = arguments(&["--config", "/nonexistent/why502.toml"])
            .settings()
            .unwrap_err()
            .to_string();

        assert!(error.contains("/nonexistent/why502.toml"), "{error}");
    }

    #[test]
    fn pairs_part_at_the_last_equals_sign() {
        assert_eq!(
            pair("unix:/run/a=b.sock=app").unwrap(),
            ("unix:/run/a=b.sock".into(), "app".into())
        );
        assert!(pair("orders").is_err());
        assert!(pair("=orders").is_err());
    }
}

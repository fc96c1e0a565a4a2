//! The families about the agent itself, computed at each scrape from one
//! [`Snapshot`](super::report::Snapshot).

use std::fmt;
use std::time::Duration;

use agent_core::UnreadClients;
use agent_wire::record::kind;
use agent_wire::tally;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::catalogue::{Computed, Kind};
use super::process;
use super::report::{
    AttachmentCounts, CoreCounts, Map, Program, RecordCounts, Report, Snapshot, TranslationCounts,
};

/// Stage `losses_total` names for the ring buffer.
const STAGE_RING: &str = "ring";
/// The probes.
const STAGE_PROBES: &str = "probes";
/// Bytes to observations.
const STAGE_DECODE: &str = "decode";
/// The core's tables.
const STAGE_CORE: &str = "core";
/// What is heard of connection tracking.
const STAGE_CONNTRACK: &str = "conntrack";
/// What is kept of a cluster's objects.
const STAGE_KUBERNETES: &str = "kubernetes";
/// The event stream.
const STAGE_STREAM: &str = "stream";
/// The HTTP server.
const STAGE_EXPORTER: &str = "exporter";

/// Label of a record whose kind is none.
const UNKNOWN_KIND: &str = "unknown";

const BUILD_INFO: Computed = Computed {
    name: "why502_agent_build_info",
    kind: Kind::Gauge,
    labels: &["version"],
    help: "Always 1; the version is in the label",
};
const CAPABILITY: Computed = Computed {
    name: "why502_agent_capability",
    kind: Kind::Gauge,
    labels: &["name"],
    help: "1 when this kernel and these rights allow the ability, 0 when it is off; `why502 doctor` says why; `kubernetes`, where it is set: 1 while names are up to date; `conntrack`, where it is: 1 while connection tracking is heard",
};
const RECORDS: Computed = Computed {
    name: "why502_agent_records",
    kind: Kind::Counter,
    labels: &["kind", "stage"],
    help: "Records by how far they came: `emitted` by the probes, `drained` from the ring, `decoded` into observations; what is missing between two stages is in why502_agent_losses_total",
};
const LOSSES: Computed = Computed {
    name: "why502_agent_losses",
    kind: Kind::Counter,
    labels: &["stage", "what"],
    help: "Things that should have been told and were not, by stage; 0 everywhere means that nothing is missing",
};
const SKIPS: Computed = Computed {
    name: "why502_agent_skips",
    kind: Kind::Counter,
    labels: &["what"],
    help: "Decisions not to look, which are no losses; `*_forgotten`: entries of a table of evidence that made room for newer ones, so that a cause may be less sure",
};
const TRACKED: Computed = Computed {
    name: "why502_agent_tracked",
    kind: Kind::Gauge,
    labels: &["what"],
    help: "Entries in the daemon's tables",
};
const UNMATCHED: Computed = Computed {
    name: "why502_agent_unmatched",
    kind: Kind::Counter,
    labels: &["what"],
    help: "What could not be joined: `attempts` of proxies told without a client's request, `errands` that named no request the attempt could belong to",
};
const EXCHANGES: Computed = Computed {
    name: "why502_agent_exchanges",
    kind: Kind::Counter,
    labels: &["what", "fate"],
    help: "Requests and attempts by what became of them: `begun` is the sum of `told`, `foreign` (their process is no proxy), `health_check`, `not_begun` (sent before the answer to the one before, and the connection ended first), `end_lost`, `swept` (silent for an hour) and of those under way",
};
const COVERAGE: Computed = Computed {
    name: "why502_agent_coverage",
    kind: Kind::Gauge,
    labels: &[],
    help: "Share of the errors given to clients, 5xx answers and connections closed without one, that were explained, 0 to 1, 1 before the first: `explained` of why502_agent_explanations_total by the sum of its `seen` and of why502_agent_unread_clients_total, each of which may have carried an error",
};
const EXPLANATIONS: Computed = Computed {
    name: "why502_agent_explanations",
    kind: Kind::Counter,
    labels: &["fate"],
    help: "Errors given to clients, 5xx answers and connections closed without one: `seen` is the sum of `explained` and `unattributed`, which includes `proxy_generated` as a guess",
};
const UNREAD_CLIENTS: Computed = Computed {
    name: "why502_agent_unread_clients",
    kind: Kind::Counter,
    labels: &["talk"],
    help: "Connections from clients to proxies that are not read, so that nobody knows what was answered on them, by what is spoken: `tls`, `http2` (in clear text), `other`; `before_agent`: open before the agent was, by whom is not known, and not read from their beginning",
};
const MAP_MAX_ENTRIES: Computed = Computed {
    name: "why502_agent_map_max_entries",
    kind: Kind::Gauge,
    labels: &["map"],
    help: "Entries a BPF map can hold; bytes for a ring buffer",
};
const MAP_BYTES: Computed = Computed {
    name: "why502_agent_map_bytes",
    kind: Kind::Gauge,
    labels: &["map"],
    help: "Kernel memory of a BPF map in bytes, where the kernel says",
};
const PROGRAM_RUNS: Computed = Computed {
    name: "why502_agent_program_runs",
    kind: Kind::Counter,
    labels: &["program"],
    help: "Runs of a BPF program; 0 while the kernel does not count them (sysctl kernel.bpf_stats_enabled)",
};
const PROGRAM_SECONDS: Computed = Computed {
    name: "why502_agent_program_seconds",
    kind: Kind::Counter,
    labels: &["program"],
    help: "Seconds spent in a BPF program; 0 while the kernel does not count them (sysctl kernel.bpf_stats_enabled)",
};
const PROGRAM_INSTRUCTIONS: Computed = Computed {
    name: "why502_agent_program_verified_instructions",
    kind: Kind::Gauge,
    labels: &["program"],
    help: "Instructions the kernel's verifier looked at when it loaded the program, where it says",
};
const ATTACHED_CGROUPS: Computed = Computed {
    name: "why502_agent_attached_cgroups",
    kind: Kind::Gauge,
    labels: &["where"],
    help: "Cgroups at which packets are looked at: `proxies`, those of proxies and of the upstreams on this host that they talk to; `everywhere`, 1 when it is all that is watched",
};
const ATTACHMENTS: Computed = Computed {
    name: "why502_agent_attachments",
    kind: Kind::Counter,
    labels: &["fate"],
    help: "Cgroups by what became of them: `attached` ever, of these `detached` again because no proxy is left, and `failed`",
};
const UNATTACHED: Computed = Computed {
    name: "why502_agent_unattached",
    kind: Kind::Gauge,
    labels: &["what"],
    help: "Whose packets should be looked at and are not: `proxies`; `upstreams`, addresses where somebody on this host serves a proxy and nothing shows which process",
};
const ATTACH_SECONDS: Computed = Computed {
    name: "why502_agent_attach_seconds",
    kind: Kind::Gauge,
    labels: &["of"],
    help: "Seconds from when a proxy was found, which is when it began to listen or connected, until its packets were looked at: of the `last` one, and the `longest`; what came in between is not explained",
};
const SUBSCRIBERS: Computed = Computed {
    name: "why502_agent_stream_subscribers",
    kind: Kind::Gauge,
    labels: &[],
    help: "Readers of the event stream",
};

const INCIDENTS: Computed = Computed {
    name: "why502_agent_incidents",
    kind: Kind::Counter,
    labels: &["fate"],
    help: "Explained gateway errors and masked failures: `stored` with their evidence for `why502 explain`, and of these `evicted` by newer ones; what is left is in why502_agent_tracked{what=\"incidents\"}",
};
const INCIDENT_BYTES: Computed = Computed {
    name: "why502_agent_incident_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Memory of the incidents kept, in bytes, as estimated from their parts",
};

/// The families of this file.
pub(super) const COMPUTED: [Computed; 23] = [
    BUILD_INFO,
    CAPABILITY,
    RECORDS,
    LOSSES,
    SKIPS,
    TRACKED,
    UNMATCHED,
    EXCHANGES,
    COVERAGE,
    EXPLANATIONS,
    UNREAD_CLIENTS,
    MAP_MAX_ENTRIES,
    MAP_BYTES,
    PROGRAM_RUNS,
    PROGRAM_SECONDS,
    PROGRAM_INSTRUCTIONS,
    INCIDENTS,
    INCIDENT_BYTES,
    ATTACHED_CGROUPS,
    ATTACHMENTS,
    UNATTACHED,
    ATTACH_SECONDS,
    SUBSCRIBERS,
];

/// One series: values of the family's labels, in their order, and its value.
pub(super) type Series = (Vec<String>, f64);

impl Collector for Report {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot {
            capabilities,
            tallies,
            records,
            core:
                CoreCounts {
                    tracked,
                    losses: core_losses,
                    skips: core_skips,
                    unmatched,
                    fates,
                },
            coverage,
            programs,
            maps,
            incidents,
            attachment,
            translations,
            directory,
            service,
        } = self.get();
        let out = &mut encoder;

        write(out, &BUILD_INFO, [series([env!("CARGO_PKG_VERSION")], 1)])?;
        write(
            out,
            &CAPABILITY,
            capabilities
                .iter()
                .map(|(name, on)| series([*name], u64::from(*on))),
        )?;
        write(out, &RECORDS, stages(&tallies, &records))?;
        let service_losses = [
            (STAGE_STREAM, "lagged", service.lagged),
            (STAGE_EXPORTER, "turned_away", service.turned_away),
        ];
        let losses = ring_losses(&tallies)
            .chain(probe_losses(&tallies))
            .chain([(STAGE_DECODE, "refused", records.refused)])
            .chain(
                core_losses
                    .iter()
                    .map(|(what, count)| (STAGE_CORE, *what, *count)),
            )
            .chain(translations.iter().flat_map(conntrack_losses))
            .chain(directory.map(|known| (STAGE_KUBERNETES, "left_out", known.left_out)))
            .chain(service_losses)
            .map(|(stage, what, count)| series([stage, what], count));
        write(out, &LOSSES, losses)?;
        let skips = probe_skips(&tallies)
            .chain(core_skips)
            .map(|(what, count)| series([what], count));
        write(out, &SKIPS, skips)?;
        write(
            out,
            &TRACKED,
            tracked
                .iter()
                .copied()
                .chain([("incidents", incidents.kept)])
                .chain(translations.map(|translations| ("translations", translations.known)))
                .chain(directory.map(|directory| ("kubernetes_objects", directory.known)))
                .map(|(what, count)| series([what], count)),
        )?;
        write(
            out,
            &UNMATCHED,
            unmatched
                .iter()
                .map(|(what, count)| series([*what], *count)),
        )?;
        let exchanges = fates.iter().flat_map(|(what, fates)| {
            fates
                .iter()
                .map(|(fate, count)| series([*what, *fate], *count))
        });
        write(out, &EXCHANGES, exchanges)?;
        write(out, &COVERAGE, [(Vec::new(), coverage.share())])?;
        let explanations = [
            ("seen", coverage.seen),
            ("explained", coverage.explained),
            ("unattributed", coverage.unattributed),
        ];
        write(
            out,
            &EXPLANATIONS,
            explanations.map(|(fate, count)| series([fate], count)),
        )?;
        let UnreadClients {
            tls,
            http2,
            other,
            before_agent,
        } = coverage.unread_clients;
        let talks = [
            ("tls", tls),
            ("http2", http2),
            ("other", other),
            ("before_agent", before_agent),
        ];
        let talks = talks.map(|(talk, count)| series([talk], count));
        write(out, &UNREAD_CLIENTS, talks)?;
        write_maps(out, &maps)?;
        write_programs(out, &programs)?;
        let fates = [("stored", incidents.stored), ("evicted", incidents.evicted)];
        write(
            out,
            &INCIDENTS,
            fates.map(|(fate, count)| series([fate], count)),
        )?;
        write(out, &INCIDENT_BYTES, [series([""; 0], incidents.bytes)])?;
        if let Some(attachment) = attachment {
            write_attachment(out, attachment)?;
        }
        write(out, &SUBSCRIBERS, [series([""; 0], service.subscribers)])?;
        process::encode(out)
    }
}

fn write_attachment(
    out: &mut DescriptorEncoder<'_>,
    counts: AttachmentCounts,
) -> Result<(), fmt::Error> {
    let AttachmentCounts {
        cgroups,
        is_everywhere,
        waiting,
        unknown_upstreams,
        attached,
        detached,
        failed,
        last_nanos,
        longest_nanos,
    } = counts;
    let all = u64::from(is_everywhere);
    let places = [("proxies", cgroups - all), ("everywhere", all)];
    let fates = [
        ("attached", attached),
        ("detached", detached),
        ("failed", failed),
    ];
    let unattached = [("proxies", waiting), ("upstreams", unknown_upstreams)];
    let seconds = [("last", last_nanos), ("longest", longest_nanos)];
    write(
        out,
        &ATTACHED_CGROUPS,
        places.map(|(of, count)| series([of], count)),
    )?;
    write(
        out,
        &ATTACHMENTS,
        fates.map(|(fate, count)| series([fate], count)),
    )?;
    write(
        out,
        &UNATTACHED,
        unattached.map(|(what, count)| series([what], count)),
    )?;
    let seconds = seconds.map(|(of, nanos)| {
        let seconds = Duration::from_nanos(nanos).as_secs_f64();
        (vec![of.to_owned()], seconds)
    });
    write(out, &ATTACH_SECONDS, seconds)
}

/// Writes one family.
pub(super) fn write(
    out: &mut DescriptorEncoder<'_>,
    family: &Computed,
    all: impl IntoIterator<Item = Series>,
) -> Result<(), fmt::Error> {
    let mut all = all.into_iter().peekable();
    if all.peek().is_none() {
        return Ok(());
    }
    let help = format!("{}.", family.help);
    let mut metric = out.encode_descriptor(family.name, &help, None, family.kind.metric_type())?;
    for (values, value) in all {
        let labels: Vec<(&str, String)> = family.labels.iter().copied().zip(values).collect();
        let labelled = metric.encode_family(&labels)?;
        match family.kind {
            Kind::Counter => ConstCounter::new(value).encode(labelled)?,
            Kind::Gauge | Kind::Histogram => ConstGauge::new(value).encode(labelled)?,
        }
    }
    Ok(())
}

fn write_maps(out: &mut DescriptorEncoder<'_>, maps: &[Map]) -> Result<(), fmt::Error> {
    let name = |map: &Map| [map.name.clone()];
    write(
        out,
        &MAP_MAX_ENTRIES,
        maps.iter().map(|map| series(name(map), map.max_entries)),
    )?;
    write(
        out,
        &MAP_BYTES,
        maps.iter()
            .filter_map(|map| Some(series(name(map), map.bytes?))),
    )
}

fn write_programs(out: &mut DescriptorEncoder<'_>, programs: &[Program]) -> Result<(), fmt::Error> {
    let name = |program: &Program| vec![program.name.clone()];
    write(
        out,
        &PROGRAM_RUNS,
        programs
            .iter()
            .map(|program| series(name(program), program.runs)),
    )?;
    write(
        out,
        &PROGRAM_SECONDS,
        programs
            .iter()
            .map(|program| (name(program), program.seconds)),
    )?;
    let instructions = programs
        .iter()
        .filter_map(|program| Some(series(name(program), program.verified_instructions?.into())));
    write(out, &PROGRAM_INSTRUCTIONS, instructions)
}

/// How far records came, by kind.
fn stages(tallies: &[u64], records: &RecordCounts) -> Vec<Series> {
    let RecordCounts {
        drained,
        decoded,
        refused: _,
    } = records;
    let mut all = Vec::new();
    for slot in 0..=kind::COUNT {
        let name = u8::try_from(slot).ok().and_then(tally::kind_name);
        if let Some(name) = name {
            all.push(series(
                [name, "emitted"],
                tally_at(tallies, tally::EMITTED, slot),
            ));
        } else if drained[slot] == 0 {
            continue;
        }
        let name = name.unwrap_or(UNKNOWN_KIND);
        all.push(series([name, "drained"], drained[slot]));
        all.push(series([name, "decoded"], decoded[slot]));
    }
    all
}

type Loss = (&'static str, &'static str, u64);

fn ring_losses(tallies: &[u64]) -> impl Iterator<Item = Loss> {
    (0..kind::COUNT).filter_map(|slot| {
        let name = tally::kind_name(u8::try_from(slot).ok()?)?;
        Some((STAGE_RING, name, tally_at(tallies, tally::RING_FULL, slot)))
    })
}

fn probe_losses(tallies: &[u64]) -> impl Iterator<Item = Loss> {
    tally::NAMED
        .into_iter()
        .filter(|(_, _, loss)| *loss)
        .map(|(slot, what, _)| (STAGE_PROBES, what, tally_at(tallies, slot.0, 0)))
}

/// One overrun is any number of connections: the kernel does not say how many.
fn conntrack_losses(counts: &TranslationCounts) -> [Loss; 2] {
    [
        (STAGE_CONNTRACK, "overrun", counts.overruns),
        (STAGE_CONNTRACK, "unreadable", counts.unreadable),
    ]
}

fn probe_skips(tallies: &[u64]) -> impl Iterator<Item = (&'static str, u64)> {
    tally::NAMED
        .into_iter()
        .filter(|(_, _, loss)| !*loss)
        .map(|(slot, what, _)| (what, tally_at(tallies, slot.0, 0)))
}

fn tally_at(tallies: &[u64], base: u32, slot: usize) -> u64 {
    usize::try_from(base)
        .ok()
        .and_then(|base| tallies.get(base + slot))
        .copied()
        .unwrap_or(0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a sample is a float; counts stay far below 2^53"
)]
fn series<L: Into<String>>(labels: impl IntoIterator<Item = L>, count: u64) -> Series {
    (labels.into_iter().map(Into::into).collect(), count as f64)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use crate::metrics::report::{DirectoryCounts, Report, Snapshot};

    #[test]
    fn what_of_a_cluster_is_kept_and_left_out_is_shown_where_its_names_are_wanted() {
        let text = |directory| {
            let report = Report::default();
            report.set(Snapshot {
                directory,
                ..Snapshot::default()
            });
            let mut registry = Registry::default();
            registry.register_collector(Box::new(report));
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };

        let wanted = text(Some(DirectoryCounts {
            known: 7,
            left_out: 2,
        }));
        for series in [
            "why502_agent_losses_total{stage=\"kubernetes\",what=\"left_out\"} 2",
            "why502_agent_tracked{what=\"kubernetes_objects\"} 7",
        ] {
            assert!(wanted.contains(series), "{series}: {wanted}");
        }
        assert!(!text(None).contains("kubernetes"));
    }
}

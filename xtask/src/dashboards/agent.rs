//! The agents themselves: whether they see everything, and what they cost.

use super::expression::{HOSTS, grown, rare, rate};
use super::model::{Dashboard, Panel, Row};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "why502-agent",
        title: "why502: agent health",
        description: "Whether the agents see everything, what they had to leave out, and what they cost.",
        variables: &[],
        rows: vec![sight(), losses(), joins(), cost(), bounds()],
    }
}

/// A gauge as it is.
fn gauge(by: &str, name: &str) -> String {
    format!("max by ({by}) ({name}{{{HOSTS}}})")
}

fn sight() -> Row {
    let panels = vec![
        Panel::stat(
            "Agents",
            "short",
            "Agents that Prometheus sees, by version. Fewer than hosts: the rest is blind.",
        )
        .query(
            format!("sum by (version) (why502_agent_build_info{{{HOSTS}}})"),
            "{{version}}",
        ),
        Panel::stat(
            "Coverage",
            "percentunit",
            "Share of all errors given to clients since the start that were explained; the worst agent. Below 90 % something is lost, switched off or cannot be read.",
        )
        .query(format!("min(why502_agent_coverage{{{HOSTS}}})"), "coverage"),
        Panel::stat(
            "Losses in this range",
            "short",
            "Things that should have been told and were not. 0 is usual; what was lost is below.",
        )
        .steps(&[(1.0, "orange"), (1000.0, "red")])
        .query(
            format!("sum(increase(why502_agent_losses_total{{{HOSTS}}}[$__range]))"),
            "losses",
        ),
        Panel::stat(
            "Abilities off",
            "short",
            "Abilities that a kernel or its rights do not allow, over all agents. `why502 doctor` on the host says why.",
        )
        .steps(&[(1.0, "orange")])
        .query(
            format!("count(why502_agent_capability{{{HOSTS}}} == 0) or vector(0)"),
            "off",
        ),
        Panel::stat(
            "Youngest agent",
            "s",
            "Time since the last start of an agent. Small again and again: it is restarted.",
        )
        .query(
            format!("min(time() - process_start_time_seconds{{{HOSTS}}} and on (job, instance) why502_agent_build_info)"),
            "age",
        ),
        Panel::stat(
            "Readers of events",
            "short",
            "Readers of the event stream now, such as `why502 tail`.",
        )
        .query(
            format!("sum(why502_agent_stream_subscribers{{{HOSTS}}})"),
            "readers",
        ),
        Panel::lines(
            "Coverage by agent",
            "percentunit",
            "Since each agent's start; a connection that is not read counts as an error that is not explained. A slow fall is a kind of traffic that it cannot read.",
        )
        .query(gauge("instance", "why502_agent_coverage"), "{{instance}}"),
        Panel::stack(
            "Errors given to clients, explained or not",
            "reqps",
            "The same per second; seen, which is their sum, is left out.",
        )
        .query(
            rare(
                "fate",
                "why502_agent_explanations_total",
                r#"cluster=~"$cluster", instance=~"$instance", fate!="seen""#,
            ),
            "{{fate}}",
        ),
        Panel::stack(
            "Connections that are not read",
            "ops",
            "From clients to proxies: TLS, HTTP/2, what is no HTTP, what began before the agent. Errors on them are not known.",
        )
        .query(
            rate("talk", "why502_agent_unread_clients_total", HOSTS),
            "{{talk}}",
        ),
        Panel::table(
            "Abilities",
            "short",
            "1: allowed. 0: off, and some causes are told with less certainty or not at all.",
        )
        .query(gauge("instance, name", "why502_agent_capability"), ""),
        Panel::stack(
            "Events told, by kind",
            "ops",
            "What the agents told: one for each request, failed attempt and so on. It follows the traffic.",
        )
        .query(rate("kind", "why502_agent_events_total", HOSTS), "{{kind}}"),
    ];
    Row {
        title: "Does it see everything",
        panels,
    }
}

fn losses() -> Row {
    let panels = vec![
        Panel::stack(
            "Losses by stage",
            "ops",
            "ring: the ring buffer was full, the host was too busy to drain it. probes, core: a table was full. decode: probes and agent of different versions. stream, exporter: slow or too many readers; no metric is wrong by these.",
        )
        .query(rare("stage", "why502_agent_losses_total", HOSTS), "{{stage}}"),
        Panel::table(
            "Losses in this range",
            "short",
            "What was lost, by how much. Empty is good.",
        )
        .query(
            format!("sort_desc({})", grown("instance, stage, what", "why502_agent_losses_total", HOSTS)),
            "",
        ),
        Panel::lines(
            "Records by stage",
            "ops",
            "Emitted by the probes, drained from the ring, decoded: the three lines lie on each other, or something is lost between two of them.",
        )
        .query(rate("stage", "why502_agent_records_total", HOSTS), "{{stage}}"),
        Panel::lines(
            "Not looked at, on purpose",
            "ops",
            "Decisions not to look, which are no losses: traffic that is not HTTP, processes that are no proxies, what began before the agent.",
        )
        .query(rate("what", "why502_agent_skips_total", HOSTS), "{{what}}"),
    ];
    Row {
        title: "What is lost",
        panels,
    }
}

fn joins() -> Row {
    let panels = vec![
        Panel::stack(
            "Attempts by how they were joined to a request",
            "ops",
            "errand is sure; request_line, path_end and waiting are good; answer is a guess; none has no request. HAProxy, Caddy, Traefik and Varnish have more of the later ones by nature.",
        )
        .query(rate("join", "why502_agent_attempts_total", HOSTS), "{{join}}"),
        Panel::lines(
            "Not joined",
            "ops",
            "Attempts without a request, such as health checks, and hints of threads that named none.",
        )
        .query(rate("what", "why502_agent_unmatched_total", HOSTS), "{{what}}"),
        Panel::lines(
            "Requests and attempts by what became of them",
            "ops",
            "told is what the metrics count. foreign: of processes that are no proxies. end_lost and swept: their end was never seen.",
        )
        .query(
            rate("what, fate", "why502_agent_exchanges_total", HOSTS),
            "{{what}} {{fate}}",
        ),
        Panel::lines(
            "Incidents",
            "ops",
            "Errors stored with their evidence for `why502 explain`, and evicted by newer ones. Evicted as fast as stored: the oldest you can ask for is young; raise `incidents`.",
        )
        .query(rate("fate", "why502_agent_incidents_total", HOSTS), "{{fate}}"),
    ];
    Row {
        title: "How things are joined",
        panels,
    }
}

fn cost() -> Row {
    let own = "and on (job, instance) why502_agent_build_info";
    let panels = vec![
        Panel::lines(
            "CPU of the agent",
            "none",
            "CPUs used by the process, without the probes. It follows the requests per second.",
        )
        .query(
            format!("sum by (instance) (rate(process_cpu_seconds_total{{{HOSTS}}}[$__rate_interval]) {own})"),
            "{{instance}}",
        ),
        Panel::lines(
            "Memory of the agent",
            "bytes",
            "Resident. Its tables are bounded: a line that only rises for a day is a fault of the agent.",
        )
        .query(
            format!("max by (instance) (process_resident_memory_bytes{{{HOSTS}}} {own})"),
            "{{instance}}",
        ),
        Panel::stack(
            "CPU of the probes",
            "none",
            "CPUs spent in BPF programs, in whatever process they ran. 0 while the kernel does not count (sysctl kernel.bpf_stats_enabled=1, which costs a little itself).",
        )
        .query(rate("program", "why502_agent_program_seconds_total", HOSTS), "{{program}}"),
        Panel::lines(
            "Runs of the probes",
            "ops",
            "How often each program ran; the packet programs run for each packet of the cgroups where proxies are. 0 while the kernel does not count.",
        )
        .query(rate("program", "why502_agent_program_runs_total", HOSTS), "{{program}}"),
        Panel::lines(
            "Time of one run",
            "s",
            "Seconds divided by runs: some hundred nanoseconds. Nothing while the kernel does not count.",
        )
        .query(
            format!(
                "{} / ({} > 0)",
                rate("program", "why502_agent_program_seconds_total", HOSTS),
                rate("program", "why502_agent_program_runs_total", HOSTS)
            ),
            "{{program}}",
        ),
        Panel::table(
            "Verified instructions",
            "short",
            "What the kernel's verifier walked through when it loaded each program; changes with the version of agent or kernel only.",
        )
        .query(gauge("program", "why502_agent_program_verified_instructions"), ""),
        Panel::lines("Open files", "short", "File descriptors of the agent: some dozens.").query(
            format!("max by (instance) (process_open_fds{{{HOSTS}}} {own})"),
            "{{instance}}",
        ),
        Panel::lines(
            "Memory of incidents",
            "bytes",
            "Estimated; at most 8 MiB.",
        )
        .query(gauge("instance", "why502_agent_incident_bytes"), "{{instance}}"),
    ];
    Row {
        title: "What it costs",
        panels,
    }
}

fn bounds() -> Row {
    let panels = vec![
        Panel::table(
            "Room of BPF maps",
            "short",
            "How many entries fit in each map, bytes for the ring buffer. A map that is full shows as a loss of stage probes.",
        )
        .query(gauge("map", "why502_agent_map_max_entries"), ""),
        Panel::lines(
            "Memory of BPF maps",
            "bytes",
            "Kernel memory, which is not in the agent's own.",
        )
        .query(gauge("map", "why502_agent_map_bytes"), "{{map}}"),
        Panel::lines(
            "Tables of the agent",
            "short",
            "Entries: connections, requests, attempts, processes, incidents. They follow the traffic and come down with it.",
        )
        .query(gauge("what", "why502_agent_tracked"), "{{what}}"),
        Panel::lines(
            "Cgroups whose packets are seen",
            "short",
            "Those of proxies and of their upstreams on this host; everywhere: all of what is watched, for a proxy is in the root cgroup, or the operator wants it.",
        )
        .query(gauge("where", "why502_agent_attached_cgroups"), "{{where}}")
        .query(
            rate("fate", "why502_agent_attachments_total", HOSTS),
            "{{fate}} per second",
        ),
        Panel::lines(
            "Not seen yet",
            "short",
            "Proxies whose packets should be seen and are not, and addresses of upstreams on this host whose process is not known. 0, but for moments.",
        )
        .query(gauge("what", "why502_agent_unattached"), "{{what}}"),
        Panel::lines(
            "Time until a proxy is seen",
            "s",
            "From when it began to listen, or connected, until its packets are looked at: below 0.1 s. What comes in between is not explained.",
        )
        .query(gauge("of", "why502_agent_attach_seconds"), "{{of}}"),
        Panel::lines(
            "Labels that overflow",
            "ops",
            "Events counted under other, for there are more upstreams or proxies than max_upstreams or max_proxies allow. Empty when there never were.",
        )
        .query(rare("label", "why502_agent_label_overflow_total", HOSTS), "{{label}}"),
    ];
    Row {
        title: "Bounds",
        panels,
    }
}

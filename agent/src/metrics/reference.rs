//! `docs/metrics.md`: printed from the families, never written by hand.

use std::fmt::{self, Write};

use super::{Entry, Metrics};
use crate::config::Settings;
use crate::knowledge::labels;

/// How the page starts.
const OPENING: &str = "\
# Metrics

Printed by `why502 metrics-reference`; a test compares this page with the code. Times are in
seconds, sizes in bytes. A histogram is classic and native at once: Prometheus gets the native
buckets when it scrapes with protobuf (`scrape_native_histograms: true`).

Labels with an open set of values are bounded. `upstream` has at most `max_upstreams` values and
`proxy` at most `max_proxies`; what is beyond them is counted under `other`, and counted in
`why502_agent_label_overflow_total`. A proxy or upstream that was silent for an hour gives its place
to a new one when places are needed. A setting, `identity_labels`, adds `proxy_namespace`,
`proxy_workload`, `proxy_pod`, `upstream_namespace` and `upstream_pod` to the metrics of gateways,
upstreams and TCP, where they are known ([identity.md](identity.md)).

";

/// Parts of the page: which families, and what to say before them.
const PARTS: [(&str, &str, &str); 5] = [
    (
        "why502_gateway_",
        "Gateway",
        "What clients got, and why it was an error.",
    ),
    (
        "why502_upstream_",
        "Upstreams",
        "What each upstream did. An attempt is one try at one upstream; a request has none, one or several.",
    ),
    (
        "why502_tcp_",
        "TCP",
        "Connections of proxies to upstreams, whatever they speak.",
    ),
    (
        "why502_agent_",
        "Agent",
        "The agent itself. Every loss is counted: `emitted` records are `drained` or in the ring, and `drained` are `decoded` or refused.",
    ),
    ("process_", "Process", "The agent's process."),
];

/// Values of labels with a closed set; `CAUSES` stands for all causes.
const VALUES: &str = "\
## Label values

| label | values |
| --- | --- |
| `cause` | CAUSES; [diagnosing.md](diagnosing.md) has a section for each |
| `certainty` | `proof`: no other reading of the evidence; `strong`: a lookalike is possible; `guess`: more context is needed |
| `code` | the status code; `none` without an answer; `other` for a number outside 100 to 599 |
| `direction` | `received`: the upstream reset; `sent`: the proxy did |
| `gave_up` | `proxy`, `kernel` |
| `join` | `errand`: the thread that sent the attempt had touched the request's socket last; `request_line`: the only open request of that process with the same request line; `path_end`: the only one whose path ends in the same way, where the proxy rewrites paths; `waiting`: the only request of that process that waited for an upstream when the attempt began; `retry`: its next attempt followed the failure at once; `answer`: its error followed the failure at once, with several such the nearest, as a guess; `in_brief`: not looked for, for both went well (setting `brief`); `none` |
| `masked` | `true`: the request still succeeded; `false`; `unknown`: its request is not known |
| `phase` | `connect`, `tls`, `idle`, `request`, `head`, `body`, `opaque` (a tunnel, or not HTTP) |
| `raced` | `true`, `false` |
| `result` | `established`, `refused`, `timeout_proxy`, `timeout_kernel`, `unreachable`, `local_error` |
| `stage` of losses | `ring`: the ring buffer was full, by kind of record; `probes`; `decode`; `core`; `stream`: a reader of the event stream was slow; `exporter`: too many connections |
";

/// The whole page.
///
/// # Errors
/// None in practice: a string takes all that is written.
pub fn markdown() -> Result<String, fmt::Error> {
    let entries = Metrics::new(&Settings::default()).entries;
    let mut page = String::from(OPENING);
    for (prefix, title, words) in PARTS {
        writeln!(page, "## {title}\n\n{words}\n")?;
        writeln!(
            page,
            "| metric | type | labels | meaning |\n| --- | --- | --- | --- |"
        )?;
        for entry in entries
            .iter()
            .filter(|entry| entry.name.starts_with(prefix))
        {
            row(&mut page, entry)?;
        }
        page.push('\n');
    }
    let causes: Vec<String> = labels().map(|label| format!("`{label}`")).collect();
    page.push_str(&VALUES.replace("CAUSES", &causes.join(", ")));
    Ok(page)
}

fn row(page: &mut String, entry: &Entry) -> Result<(), fmt::Error> {
    let Entry {
        name,
        kind,
        labels,
        help,
    } = entry;
    let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
    writeln!(
        page,
        "| `{name}` | {} | {} | {help}. |",
        kind.as_str(),
        labels.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::{PARTS, markdown};
    use crate::config::Settings;
    use crate::metrics::Metrics;

    #[test]
    fn the_committed_page_is_the_one_the_code_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();

        let printed = markdown().unwrap();

        assert!(
            committed == printed,
            "docs/metrics.md is stale: run `why502 metrics-reference > docs/metrics.md`"
        );
    }

    #[test]
    fn every_family_is_in_exactly_one_part_and_documented() {
        for entry in Metrics::new(&Settings::default()).entries {
            let parts = PARTS
                .iter()
                .filter(|(prefix, _, _)| entry.name.starts_with(prefix))
                .count();

            assert_eq!(parts, 1, "{}", entry.name);
            assert!(
                !entry.help.is_empty() && !entry.help.ends_with('.'),
                "{}",
                entry.name
            );
        }
    }
}

//! The shipped alert rules and dashboards on real trouble: nginx and upstreams that fail, the agent,
//! a Prometheus that scrapes native histograms and one that scrapes text, an Alertmanager, and a
//! webhook that is told.
//!
//! Judged by what the webhook got: the alert with upstream and cause while something is wrong,
//! its end after the repair, and nothing else. The rules are the shipped file with each duration
//! divided by [`FASTER`]; see [`e2e::shortened`].

mod dashboards;
mod pictures;
mod scene;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use e2e::alertmanager::{Alertmanager, Told, Webhook};
use e2e::prometheus::{Prometheus, Setup};
use e2e::shortened::shortened;
use e2e::wait::eventually;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use scene::Scene;

/// The rules' durations are divided by this: 5 minutes are 5 s.
const FASTER: u64 = 60;
/// Prometheus scrapes so often: ten times in the shortest window.
const SCRAPES: Duration = Duration::from_millis(500);
/// Windows and `for` of the alerts are over by then. The longest is 30 minutes, which are 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Alerts of trouble that this test does not make.
const OF_OTHER_TROUBLE: [&str; 8] = [
    "Why502GatewayErrorRate",
    "Why502PathLoss",
    "Why502AgentDown",
    "Why502NoAgent",
    "Why502CapabilityLost",
    "Why502EventsLost",
    "Why502CoverageLow",
    "Why502LabelOverflow",
];

/// Who watches.
struct Watch {
    native: Prometheus,
    text: Prometheus,
    webhook: Webhook,
    /// When both Prometheis ran.
    started: SystemTime,
    _alertmanager: Alertmanager,
    _folder: TempDir,
}

impl Watch {
    fn start(scene: &Scene) -> Self {
        let folder = TempDir::with_prefix("e2e-rules-")
            .unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let rules = folder.path().join("why502.rules.yml");
        let shipped = shipped("dashboards/alerts/why502.rules.yml");
        fs::write(&rules, shortened(&shipped, FASTER))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", rules.display()));
        let webhook = Webhook::start();
        let alertmanager = Alertmanager::start(&webhook);
        let setup = Setup {
            how: "",
            every: SCRAPES,
            native: true,
            rules: Some(&rules),
            alertmanager: Some(alertmanager.address),
        };
        let native = Prometheus::start(scene.agent.address, &setup);
        let setup = Setup {
            native: false,
            alertmanager: None,
            ..setup
        };
        let text = Prometheus::start(scene.agent.address, &setup);
        let started = SystemTime::now();
        for prometheus in [&native, &text] {
            // From now on a new series is known to be new.
            assert_eq!(prometheus.value("why502_agent_build_info offset 5s"), 1.0);
        }
        Self {
            native,
            text,
            webhook,
            started,
            _alertmanager: alertmanager,
            _folder: folder,
        }
    }

    /// Waits for an alert whose texts have all of `words`.
    #[track_caller]
    fn told(&self, alert: &str, status: &str, words: &[&str]) {
        let told = eventually(PATIENCE, &format!("{alert} is {status}"), || {
            let all = self.webhook.of(alert);
            let says = |told: &Told| {
                let texts: Vec<&str> = told.annotations.values().map(String::as_str).collect();
                let texts = texts.join(" ");
                told.status == status && words.iter().all(|word| texts.contains(word))
            };
            match all.iter().find(|told| says(told)) {
                Some(told) => Ok(told.clone()),
                None => Err(format!("{words:?} is not in {all:#?}")),
            }
        });
        println!("{status:<9}{alert:<28}{}", told.annotations["summary"]);
    }

    /// No rule failed, and none was slow.
    fn assert_rules_are_well(&self) {
        for (prometheus, form) in [(&self.native, "native"), (&self.text, "text")] {
            let rules = prometheus
                .get("/api/v1/rules", &[])
                .unwrap_or_else(|error| panic!("Prometheus tells no rules: {error}"));
            let groups = rules["groups"].as_array().cloned().unwrap_or_default();
            let rules: Vec<&Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().into_iter().flatten())
                .collect();
            assert!(rules.len() > 30, "{form}: {} rules", rules.len());
            for rule in rules {
                assert_eq!(rule["health"], "ok", "{form}: {rule}");
                assert!(rule.get("lastError").is_none(), "{form}: {rule}");
            }
        }
    }
}

/// A file of the checkout.
fn shipped(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

#[test]
fn who_is_on_call_is_told_what_is_wrong_and_that_it_is_over() {
    let mut scene = Scene::build();
    let watch = Watch::start(&scene);
    let started = watch.started;

    // A spike, and the race that is in each keep-alive timeout.
    let races = scene.race();
    let asking = scene.ask_the_refusing();
    let gone = scene.gone.to_string();
    let words = [gone.as_str(), "connect_refused"];
    watch.told("Why502GatewayErrors", "firing", &words);
    watch.told("Why502UpstreamErrors", "firing", &words);
    watch.told("Why502UpstreamRefuses", "firing", &words);
    let racing = scene.racing.to_string();
    // How long it was, where CPUs are taken away, nobody can say beforehand.
    let words_of_race = [racing.as_str(), "keepalive_race", "idle for", "s (median)"];
    watch.told("Why502KeepaliveRaces", "firing", &words_of_race);

    scene.repair_the_refusing();
    scene.repair_the_race();
    watch.told("Why502GatewayErrors", "resolved", &[]);
    watch.told("Why502UpstreamErrors", "resolved", &words);
    watch.told("Why502UpstreamRefuses", "resolved", &words);
    drop(asking);

    // A firewall, a slow application, and an upstream that only retries hide.
    let asking = (
        scene.ask_the_dark(),
        scene.ask_the_slow(),
        scene.ask_the_hidden(),
    );
    let dark = scene.dark.to_string();
    let words = [dark.as_str(), "connect_timeout"];
    watch.told("Why502SynTimeouts", "firing", &words);
    let slow = scene.slow.to_string();
    watch.told("Why502UpstreamSlow", "firing", &[slow.as_str(), "100%"]);
    let hidden = scene.hidden.to_string();
    let words_of_hidden = [hidden.as_str(), "connect_refused", "hidden by retries"];
    watch.told("Why502MaskedFailuresRising", "firing", &words_of_hidden);

    scene.repair_the_dark();
    watch.told("Why502SynTimeouts", "resolved", &words);
    drop(asking);
    watch.told("Why502UpstreamSlow", "resolved", &[slow.as_str()]);
    watch.told("Why502MaskedFailuresRising", "resolved", &[hidden.as_str()]);
    watch.told("Why502KeepaliveRaces", "resolved", &words_of_race[..2]);
    drop(races);

    for alert in OF_OTHER_TROUBLE {
        let told = watch.webhook.of(alert);
        assert!(told.is_empty(), "{alert}: {told:#?}");
    }
    // The rules say the same of classic histograms.
    let fired = r#"count(count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[5m])))"#;
    assert_eq!(watch.native.value(fired), watch.text.value(fired));
    watch.assert_rules_are_well();

    // Every fault there is, for the panels.
    scene.play_all_faults();
    pictures::draw(&watch, &scene, started);
    dashboards::assert_show(&watch.native, &watch.text, started);

    let agent = scene.agent.address.to_string();
    scene.agent.signal(Signal::TERM);
    watch.told("Why502AgentDown", "firing", &[agent.as_str()]);
}

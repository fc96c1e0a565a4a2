//! nginx with a healthy upstream and one of each kind of trouble, each with its repair.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::counting::Counting;
use e2e::delay::DelayLine;
use e2e::faults::play;
use e2e::faults::stage::Stage;
use e2e::load::traffic::Traffic;
use e2e::load::{Order, runtime};
use e2e::netns::Netns;
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// One way to the upstream that races. Shorter: a busy machine misses the moment.
const DELAY: Duration = Duration::from_millis(20);
/// How long that upstream keeps an idle connection.
const IDLE_MS: u64 = 600;
/// A request that leaves so long before meets its FIN half way.
const BEFORE_MS: [u64; 3] = [20, 28, 12];
const RACING_PORT: u16 = 9001;
const DARK_PORT: u16 = 9009;

/// Everything that runs.
pub(crate) struct Scene {
    pub(crate) agent: Agent,
    /// Refuses until repaired.
    pub(crate) gone: SocketAddr,
    /// Closes idle connections until repaired.
    pub(crate) racing: SocketAddr,
    /// Swallows SYNs until repaired.
    pub(crate) dark: SocketAddr,
    /// Answers after more than a second.
    pub(crate) slow: SocketAddr,
    /// Refuses, with a good one beside it.
    pub(crate) hidden: SocketAddr,
    proxy: Proxy,
    _patient: Nginx,
    patient_address: SocketAddr,
    stage: Stage,
    refusing: Option<Refusing>,
    _hidden: Refusing,
    racing_upstream: Upstreams,
    repaired: Vec<Upstreams>,
    _good: Upstreams,
    healthy: Option<Traffic>,
    far: Netns,
    _line: DelayLine,
    dark_netns: Netns,
    _counting: Counting,
}

impl Scene {
    /// Builds it, with traffic to the healthy upstream: about 150 requests a second.
    #[track_caller]
    pub(crate) fn build() -> Self {
        need_root();
        let stage = Stage::build();
        let good = Upstreams::start(LOCALHOST, &["0", "0", "0"], None);
        let [app, slow, beside] = *good.addresses.as_slice() else {
            panic!("three servers were ordered");
        };
        let refusing = Refusing::new(LOCALHOST);
        let hidden = Refusing::new(LOCALHOST);
        let far = Netns::new();
        let line = DelayLine::to(&far, DELAY);
        let racing_upstream = Upstreams::start(
            line.far,
            &[&format!("{RACING_PORT}=ok,idle={IDLE_MS}")],
            Some(&far),
        );
        let racing = SocketAddr::new(line.far, RACING_PORT);
        let dark_netns = Netns::new();
        let dark = SocketAddr::new(dark_netns.join(None).far, DARK_PORT);
        dark_netns.swallow(DARK_PORT);

        let to = |name: &'static str, servers: Vec<SocketAddr>| {
            Group::new(name, Target::Servers(servers))
        };
        let mut groups = stage.groups.clone();
        groups.extend([
            to("app", vec![app]).kept(),
            to("slow_app", vec![slow]).kept(),
            to("gone", vec![refusing.address]),
            to("racing", vec![racing]).kept(),
            to("far_dark", vec![dark]),
            to("hidden", vec![hidden.address, beside]).retried(),
        ]);
        let agent = Agent::start(&[]);
        let proxy = Proxy::start(Kind::Nginx, &groups);
        let tls = stage.groups.iter().find_map(|group| match &group.target {
            Target::Tls(tls) if group.name == "tls_ok" => Some(tls.server),
            _ => None,
        });
        let Some(tls) = tls else {
            panic!("the stage has a server that speaks TLS");
        };
        let patient_address = ports::free(LOCALHOST);
        let patient = Nginx::start(
            &Config::new(format!(
                "proxy_connect_timeout 3s; server {{ listen {patient_address}; \
                 location / {{ proxy_pass http://{dark}; }} \
                 location /tls/ {{ proxy_pass https://{tls}; }} }}"
            )),
            None,
        );
        let healthy = Traffic::start(proxy.address, 4, |client, number| Order {
            pause: Duration::from_millis(20),
            ..Order::get(format!("/app/{client}/{number}/wait=3,body=2000"))
        });
        Self {
            agent,
            gone: refusing.address,
            racing,
            dark,
            slow,
            hidden: hidden.address,
            proxy,
            _patient: patient,
            patient_address,
            stage,
            refusing: Some(refusing),
            _hidden: hidden,
            racing_upstream,
            repaired: Vec::new(),
            _good: good,
            healthy: Some(healthy),
            far,
            _line: line,
            dark_netns,
            _counting: Counting::begin(),
        }
    }

    /// Clients of the upstream that refuses: about 30 requests a second.
    pub(crate) fn ask_the_refusing(&self) -> Traffic {
        self.ask("gone", 2, "ok")
    }

    /// A client that asks, and asks again just when the upstream's idle timeout ends.
    pub(crate) fn race(&self) -> Traffic {
        Traffic::start(self.proxy.address, 1, |_, number| {
            if number % 2 == 0 {
                return Order::get(format!("/racing/{number}/first/ok"));
            }
            let before = BEFORE_MS[number / 2 % BEFORE_MS.len()];
            Order {
                pause: Duration::from_millis(IDLE_MS - before),
                ..Order::post(format!("/racing/{number}/ok"), 50)
            }
        })
    }

    /// Clients of the upstream behind the firewall; some of an nginx that waits until SYNs are
    /// sent again.
    pub(crate) fn ask_the_dark(&self) -> [Traffic; 2] {
        let patient = Traffic::start(self.patient_address, 2, |client, number| {
            Order::get(format!("/{client}/{number}/ok"))
        });
        [self.ask("far_dark", 4, "ok"), patient]
    }

    /// Clients of the slow application: its head takes 1.2 s, in two parts, for nginx waits 1 s
    /// for each.
    pub(crate) fn ask_the_slow(&self) -> Traffic {
        self.ask("slow_app", 16, "wait=600,split=10,pause=600")
    }

    /// Clients that see no error.
    pub(crate) fn ask_the_hidden(&self) -> Traffic {
        self.ask("hidden", 2, "ok")
    }

    fn ask(&self, group: &'static str, clients: usize, words: &'static str) -> Traffic {
        Traffic::start(self.proxy.address, clients, move |client, number| Order {
            pause: Duration::from_millis(50),
            ..Order::get(format!("/{group}/{client}/{number}/{words}"))
        })
    }

    /// Somebody listens.
    #[track_caller]
    pub(crate) fn repair_the_refusing(&mut self) {
        self.refusing = None;
        let port = self.gone.port().to_string();
        self.repaired
            .push(Upstreams::start(LOCALHOST, &[&port], None));
    }

    /// The upstream keeps idle connections.
    #[track_caller]
    pub(crate) fn repair_the_race(&mut self) {
        self.racing_upstream.kill();
        self.racing_upstream = Upstreams::start(
            self.racing.ip(),
            &[&RACING_PORT.to_string()],
            Some(&self.far),
        );
    }

    /// The firewall lets pass, and somebody listens.
    #[track_caller]
    pub(crate) fn repair_the_dark(&mut self) {
        self.dark_netns.unfilter();
        let port = DARK_PORT.to_string();
        self.repaired.push(Upstreams::start(
            self.dark.ip(),
            &[&port],
            Some(&self.dark_netns),
        ));
    }

    /// Each fault that nginx can have, once, beside healthy traffic in clear text and in TLS.
    pub(crate) fn play_all_faults(&mut self) {
        let _tls = Traffic::start(self.patient_address, 1, |client, number| Order {
            pause: Duration::from_millis(50),
            ..Order::get(format!("/tls/{client}/{number}/ok"))
        });
        let played = runtime().block_on(play::play_all(&self.proxy, &self.stage, "panels"));
        assert!(played.len() > 50, "{} faults were played", played.len());
        // Ends when the last look at the panels has its rates.
        if let Some(healthy) = &self.healthy {
            healthy.goes_on(500);
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Clients before the proxy, so that they end well.
        if let Some(healthy) = self.healthy.take() {
            healthy.stop();
        }
    }
}

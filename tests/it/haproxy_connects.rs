//! Connects of HAProxy that `timeout connect` ends, or the network: it gives each up with SO_LINGER 0,
//! which leaves ECONNRESET at the socket. And health checks of another backend beside them, which are
//! no attempts of any request.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::churn::sysctl;
use e2e::faults::stage::fill;
use e2e::haproxy::Haproxy;
use e2e::load::{Order, one_by_one};
use e2e::netns::Netns;
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

/// Where HAProxy listens in its namespace.
const FRONT: u16 = 8080;
/// SYNs to this port are swallowed.
const DARK: u16 = 9001;
/// Connects to this one are answered by ICMP.
const NO_HOST: u16 = 9002;
/// Listens and never accepts.
const FULL: u16 = 9003;
/// Nobody listens here, and it is checked.
const DEAD: u16 = 9004;
/// Nobody listens here.
const REFUSED: u16 = 9005;

/// Requests of each kind.
const EACH: usize = 6;

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

/// Each backend, what may be said of its failure, and how sure.
const BACKENDS: [(&str, u16, &str); 4] = [
    ("dark", DARK, "connect_timeout"),
    ("full", FULL, "accept_queue_full"),
    ("no_host", NO_HOST, "host_unreachable"),
    ("refused", REFUSED, "connect_refused"),
];

#[test]
fn a_connect_that_haproxy_gives_up_has_its_cause_and_checks_have_no_request() {
    need_root();
    let (near, far) = (Netns::new(), Netns::new());
    let veth = far.join(Some(&near));
    far.swallow(DARK);
    far.filter(&format!(
        "tcp dport {NO_HOST} reject with icmp host-unreachable"
    ));
    sysctl(&far, "net/ipv4/icmp_ratelimit", "0");
    let at = veth.far;
    let _upstreams = Upstreams::start(at, &[&format!("{FULL}=deaf")], Some(&far));
    let full = SocketAddr::new(at, FULL);
    let _queued = near.run(move || fill(full)).join().expect("it fills");
    let backends: String = BACKENDS
        .iter()
        .map(|(name, port, _)| format!("backend {name}\n    server one {at}:{port}\n"))
        .collect();
    let mut haproxy = Haproxy::start(
        &format!(
            "    timeout connect 1s
    retries 0
frontend front
    bind 127.0.0.1:{FRONT}
    use_backend %[path,field(2,/)]
{backends}backend checked
    server dead {at}:{DEAD} check inter 200ms
"
        ),
        Some(&near),
    );
    let front = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), FRONT);
    let listens = near.run(move || {
        eventually(TELL, "haproxy listens", || {
            TcpStream::connect(front)
                .map(drop)
                .map_err(|error| error.to_string())
        });
    });
    listens.join().expect("it listens");
    haproxy.assert_runs();
    let agent = Agent::start(&[]);
    let events = agent.events();
    let dead = SocketAddr::new(at, DEAD).to_string();
    let checks = || {
        agent.metrics().sum(
            "why502_upstream_health_checks_total",
            &[("upstream", &dead), ("result", "connect_refused")],
        )
    };
    // From now on a request waits nearly all the time.
    let before = eventually(TELL, "the dead server is checked", || match checks() {
        few if few < 2.0 => Err(few.to_string()),
        enough => Ok(enough),
    });
    let orders: Vec<Order> = (0..EACH)
        .flat_map(|number| {
            // On a connection that was used before HAProxy closes without a word.
            BACKENDS.map(|(name, ..)| Order {
                last: true,
                ..Order::get(format!("/{name}/{number}/ok"))
            })
        })
        .collect();

    let asked = near.run(move || one_by_one(front, orders));
    let outcomes = asked.join().expect("the client does not panic");

    assert!(outcomes.iter().all(|one| one.is(503)), "{outcomes:?}");
    let paths = outcomes.iter().map(|outcome| outcome.path.as_str());
    let told = events.of(paths, TELL);
    let mut wrong = Vec::new();
    for (path, request) in &told {
        let backend = BACKENDS
            .iter()
            .find(|(name, ..)| path.starts_with(&format!("/{name}/")));
        let (_, port, cause) = backend.expect("a backend of the list");
        println!("{path}: {:?} {:?}", request.cause, request.certainty);
        let upstream = SocketAddr::new(at, *port).to_string();
        let is_its_own = |upstream_of: &str| upstream_of == upstream;
        let attempts = &request.attempts;
        let right = request.cause.as_deref() == Some(*cause)
            && !attempts.is_empty()
            && attempts.iter().all(|one| is_its_own(&one.upstream));
        if !right {
            wrong.push(format!("{path}: {request:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let beside = checks() - before;
    println!("{beside} checks beside the requests");
    assert!(beside > 0.0, "checks are known beside requests");
}

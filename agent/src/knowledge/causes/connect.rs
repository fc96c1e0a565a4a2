//! Causes before a request could be sent: TCP connect, TLS.

use agent_core::cause::Cause;

use crate::knowledge::{Entry, check};

pub(in crate::knowledge) const CONNECT_REFUSED: Entry = Entry {
    cause: Cause::ConnectRefused,
    meaning: "Nobody listens at the upstream's address, or a firewall answers for it with a reset.",
    gloss: "nobody listens there",
    evidence: "A reset answered the SYN, or connect() failed with 111 (ECONNREFUSED); for a Unix socket 111, or 2 because the path is not there.",
    check: &[
        check(
            "Does the service run and listen, on this address and not only on loopback?",
            "ss -ltnp 'sport = :PORT'",
        ),
        check(
            "Did it restart at that moment?",
            "journalctl -u SERVICE --since '10 min ago'",
        ),
        check(
            "Behind a Kubernetes Service: is an endpoint of it ready?",
            "kubectl get endpointslices -l kubernetes.io/service-name=NAME",
        ),
        check(
            "Does a firewall reset?",
            "nft list ruleset | grep -i reject",
        ),
        check(
            "For a Unix socket: is it there?",
            "ls -l /PATH/TO.sock; ss -lxp | grep TO.sock",
        ),
    ],
    fix: "Start the service or correct address, port or socket path; on deploys take it out of the pool first, and put it in when it is ready.",
    lookalikes: &[
        "`connect_timeout`: nothing answered at all. A refusal proves that the host is up and reachable.",
        "A firewall with `reject with tcp reset` looks the same from the proxy's host; try from the upstream's own.",
    ],
};

pub(in crate::knowledge) const CONNECT_TIMEOUT: Entry = Entry {
    cause: Cause::ConnectTimeout,
    meaning: "The upstream never answered the SYN, and the proxy or the kernel gave up.",
    gloss: "dropped on the way, or the host is down",
    evidence: "One or more SYNs, no answer of any kind, then a close by the proxy (its connect timer) or ETIMEDOUT by the kernel.",
    check: &[
        check(
            "Is the host up and the port reachable from here?",
            "nc -vz -w 2 ADDRESS PORT",
        ),
        check("Where do packets end?", "traceroute -T -p PORT ADDRESS"),
        check(
            "Does a firewall or security group drop?",
            "nft list ruleset | grep -i drop",
        ),
        check(
            "Does the listener overflow (on the upstream's host)?",
            "nstat -az TcpExtListenOverflows TcpExtListenDrops",
        ),
    ],
    fix: "Open the firewall, security group or route that drops the SYN, or remove the dead host from the pool.",
    lookalikes: &[
        "`accept_queue_full`: the same silence, because the listener is full. Told apart only on the upstream's own host.",
        "`host_unreachable`: a firewall or a Service of Kubernetes without a ready endpoint rejects by ICMP, and Linux sends little of that to one address (`icmp_ratelimit`): the connects beyond it meet silence.",
        "nginx answers 504 when its own timer ended it, and 502 when the kernel's did: the same fault.",
    ],
};

pub(in crate::knowledge) const ACCEPT_QUEUE_FULL: Entry = Entry {
    cause: Cause::AcceptQueueFull,
    meaning: "The upstream's listen queue was full: it does not accept connections as fast as they come.",
    gloss: "the app does not accept fast enough",
    evidence: "An unanswered SYN while the listener's overflow counter grew, or EAGAIN (11) from connect() on a Unix socket.",
    check: &[
        check(
            "Is the queue full now (Recv-Q reaches Send-Q)?",
            "ss -ltn 'sport = :PORT'",
        ),
        check(
            "Does the kernel count overflows?",
            "nstat -az TcpExtListenOverflows TcpExtListenDrops",
        ),
        check("What is the limit?", "sysctl net.core.somaxconn"),
        check("Are all workers busy?", "top -H -p $(pgrep -d, WORKER)"),
    ],
    fix: "More workers (php-fpm pm.max_children, gunicorn -w), a larger backlog together with net.core.somaxconn, or less time per request.",
    lookalikes: &[
        "`connect_timeout`: a dropped SYN on the network. On a remote upstream both look the same; look at its own counters.",
    ],
};

pub(in crate::knowledge) const HOST_UNREACHABLE: Entry = Entry {
    cause: Cause::HostUnreachable,
    meaning: "The network said that the upstream cannot be reached: no route, no neighbour, or an ICMP refusal.",
    gloss: "the network refused, not the app",
    evidence: "ENETUNREACH (101) or EHOSTUNREACH (113) from connect(), an ICMP unreachable, or no ARP answer while the SYN waited.",
    check: &[
        check("Which route is taken?", "ip route get ADDRESS"),
        check("Is the neighbour resolved?", "ip neigh show ADDRESS"),
        check(
            "Who sends ICMP, and which code?",
            "tcpdump -ni any 'icmp[0] = 3 or icmp6[0] = 1'",
        ),
        check(
            "Is it a Service of Kubernetes without a ready endpoint? kube-proxy rejects with port unreachable.",
            "kubectl get endpoints SERVICE",
        ),
    ],
    fix: "Repair the route, remove the dead host, lift the firewall that rejects (ICMP codes 9, 10, 13), or give the Service an endpoint that is ready.",
    lookalikes: &[
        "`connect_timeout`: silence instead of a refusal.",
        "On HAProxy and nginx an ICMP that is only a soft error ends as a timeout in their log.",
    ],
};

pub(in crate::knowledge) const CONNECT_LOCAL_ERROR: Entry = Entry {
    cause: Cause::ConnectLocalError,
    meaning: "The proxy's own host could not even try: no free port, no permission, no descriptor.",
    gloss: "no packet left the proxy",
    evidence: "socket(), bind() or connect() returned an errno (99, 13, 1, 24 ...) and no packet left. Before connect() the upstream's address is not known.",
    check: &[
        check(
            "99: how many ports are in use towards this upstream?",
            "ss -tan dst ADDRESS:PORT | wc -l; sysctl net.ipv4.ip_local_port_range",
        ),
        check(
            "13 or 1: who may use the socket, does SELinux object?",
            "ls -l /PATH/TO.sock; ausearch -m avc -ts recent",
        ),
        check(
            "24: how many descriptors?",
            "ls /proc/PID/fd | wc -l; grep 'open files' /proc/PID/limits",
        ),
    ],
    fix: "99: keep upstream connections alive, widen ip_local_port_range; 13: rights of the socket, SELinux; 24: raise the limit of open files.",
    lookalikes: &["`connect_refused`: there a packet left and was refused."],
};

pub(in crate::knowledge) const TLS_FAILED: Entry = Entry {
    cause: Cause::TlsFailed,
    meaning: "TCP connected, but the TLS handshake with the upstream failed or was never finished.",
    gloss: "TCP was fine, TLS was not",
    evidence: "A ClientHello left; then an alert, FIN, RST, plain text or silence came before any application data.",
    check: &[
        check(
            "What does the upstream say?",
            "openssl s_client -connect ADDRESS:PORT -servername NAME </dev/null",
        ),
        check(
            "Is its certificate valid and for this name?",
            "openssl s_client -connect ADDRESS:PORT -servername NAME </dev/null | openssl x509 -noout -dates -ext subjectAltName",
        ),
        check(
            "Does it speak plain HTTP there?",
            "curl -sv http://ADDRESS:PORT/",
        ),
    ],
    fix: "Match http and https to the port, send the right SNI, renew the certificate or trust its CA, share a TLS version and cipher.",
    lookalikes: &[
        "Apache httpd answers 500 for this, not 502.",
        "Plain HTTP to a port for TLS is not this: nginx and Apache answer it with 400 by themselves, which the client gets and which is no gateway error; others close (`closed_before_response`) or send an alert (`invalid_response`).",
        "`response_timeout`: there the handshake was complete.",
    ],
};

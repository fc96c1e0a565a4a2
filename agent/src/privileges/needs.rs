//! Which capabilities are needed here, for what, and which of them are missing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Gid, Resource, getegid, geteuid, getgroups, getrlimit};
use rustix::system::uname;
use rustix::thread::{CapabilitySet, capabilities};

/// Where tracefs is mounted; the second one by debugfs.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// How far perf_event_open(2) is closed. The kernel's own values end at 2, which CAP_PERFMON
/// opens; Debian and Ubuntu have added 3 and 4, which only CAP_SYS_ADMIN does.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
const PARANOID_FOR_PERFMON: i32 = 2;

/// Since then maps are not counted as locked memory, and typed tracepoints tell what before only
/// classic ones do: whose socket it is.
const TYPED_TRACEPOINTS: (u32, u32) = (5, 11);

/// How much depends on a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Necessity {
    /// Without it nothing is seen.
    Required,
    /// Without it something is off.
    Useful,
    /// Not on this host, as it is set up now.
    NotHere,
}

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// As `capabilities(7)` calls it, without `CAP_`, which is how Kubernetes writes it.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// What is off without it.
    pub without: &'static str,
    /// How much depends on it here.
    pub necessity: Necessity,
    /// This process has it.
    pub held: bool,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs(Vec<Need>);

/// What the host makes necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    /// tracefs is needed, and this user may not look into it without a capability.
    tracefs_is_closed: bool,
    /// Tracepoints are needed, and only CAP_SYS_ADMIN may open them.
    perf_is_closed: bool,
    /// Maps are locked memory, and of that too little is allowed.
    locks_maps: bool,
    /// Without classic tracepoints nothing is seen.
    is_old: bool,
}

impl Needs {
    /// Of this process on this host. `uses_tracepoints`: the probes were found to need classic
    /// tracepoints here; kernels of which all is seen by them need them in any case.
    pub fn here(uses_tracepoints: bool) -> Self {
        // A process can always ask for its own.
        let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        let is_old = is_old();
        let classic = is_old || uses_tracepoints;
        let host = Host {
            tracefs_is_closed: classic && tracefs_is_closed(),
            perf_is_closed: classic && perf_is_closed(),
            locks_maps: is_old && getrlimit(Resource::Memlock).maximum.is_some(),
            is_old,
        };
        Self::of(held, host)
    }

    fn of(held: CapabilitySet, host: Host) -> Self {
        let admin = held.contains(CapabilitySet::SYS_ADMIN);
        let need = |name, set, necessity, purpose, without| Need {
            name,
            purpose,
            without,
            necessity,
            // Until 5.8 SYS_ADMIN was BPF and PERFMON as well, and the kernel still takes it.
            held: held.contains(set) || admin && matches!(name, "BPF" | "PERFMON"),
        };
        let when = |condition, necessity| {
            if condition {
                necessity
            } else {
                Necessity::NotHere
            }
        };
        let (classic, lost) = if host.is_old {
            (Necessity::Required, "nothing is seen")
        } else {
            (
                Necessity::Useful,
                "connects that fail without a packet are not seen",
            )
        };
        Self(vec![
            need(
                "BPF",
                CapabilitySet::BPF,
                Necessity::Required,
                "make maps, load programs",
                "nothing is seen",
            ),
            need(
                "PERFMON",
                CapabilitySet::PERFMON,
                Necessity::Required,
                "load programs that follow pointers, and attach them",
                "nothing is seen",
            ),
            need(
                "NET_ADMIN",
                CapabilitySet::NET_ADMIN,
                Necessity::Required,
                "attach the packet programs to the cgroups of proxies",
                "nothing is seen",
            ),
            need(
                "SYS_RESOURCE",
                CapabilitySet::SYS_RESOURCE,
                when(host.locks_maps, Necessity::Required),
                "lock memory for maps before Linux 5.11; or raise the limit (LimitMEMLOCK=infinity)",
                "maps cannot be made, so nothing is seen",
            ),
            need(
                "DAC_READ_SEARCH",
                CapabilitySet::DAC_READ_SEARCH,
                when(host.tracefs_is_closed, classic),
                "read tracefs, which is root's; or mount it for a group of this user (gid=, mode=750)",
                lost,
            ),
            need(
                "SYS_ADMIN",
                CapabilitySet::SYS_ADMIN,
                when(host.perf_is_closed, classic),
                "open tracepoints while kernel.perf_event_paranoid is above 2; or set it to 2",
                lost,
            ),
            need(
                "SYS_PTRACE",
                CapabilitySet::SYS_PTRACE,
                Necessity::Useful,
                "read which executable a process of another user is, and for conntrack whether this is the host's network",
                "proxies are known by the name of their process, which is cut after 15 letters, and conntrack is off",
            ),
        ])
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Need> {
        self.0.iter()
    }

    /// Whether this one is of use here, held or not.
    pub fn wants(&self, name: &str) -> bool {
        self.iter()
            .any(|need| need.name == name && need.necessity != Necessity::NotHere)
    }

    /// One sentence when something is missing without which nothing works.
    pub fn refusal(&self) -> Option<String> {
        let missing: Vec<String> = self
            .iter()
            .filter(|need| need.necessity == Necessity::Required && !need.held)
            .map(|need| format!("CAP_{} ({})", need.name, need.purpose))
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "this process may not watch the kernel: it lacks {}; run it as root, or give it what `why502 doctor` lists",
                missing.join(", ")
            )
        })
    }

    /// What is off for want of rights, one sentence each.
    pub fn shortcomings(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.iter()
            .filter(|need| need.necessity == Necessity::Useful && !need.held)
            .map(|need| {
                (
                    need.name,
                    format!("{}; needed to {}", need.without, need.purpose),
                )
            })
    }

    /// How to give what is missing, a line for each way; none when nothing is.
    pub fn how_to_give(&self) -> Vec<String> {
        let wanted = |need: &&Need| need.necessity != Necessity::NotHere;
        if self.iter().filter(wanted).all(|need| need.held) {
            return Vec::new();
        }
        let names: Vec<&str> = self.iter().filter(wanted).map(|need| need.name).collect();
        let prefixed: Vec<String> = names.iter().map(|name| format!("CAP_{name}")).collect();
        let small = prefixed.join(",").to_ascii_lowercase();
        vec![
            format!("setcap {small}=ep /usr/bin/why502"),
            format!("systemd: AmbientCapabilities={}", prefixed.join(" ")),
            format!(
                "Kubernetes: securityContext.capabilities.add: [{}]",
                names.join(", ")
            ),
        ]
    }
}

/// Whether this process is in a user namespace of its own, where capabilities are for what
/// belongs to that namespace only; the kernel's probes do not.
pub fn is_in_user_namespace() -> bool {
    // user_namespaces(7): the first one maps all ids to themselves.
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let fields: Vec<&str> = map.split_whitespace().collect();
        fields != ["0", "0", "4294967295"]
    })
}

/// As aya does: the first that can be listed and is not empty is it. What a capability of this
/// process opens is closed: it is the capability that is asked about.
fn tracefs_is_closed() -> bool {
    let user = User::here();
    let mut closed = false;
    for path in TRACEFS {
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                let events = Path::new(path).join("events/sock");
                let by_mode = events.ancestors().all(|folder| user.may_enter(folder));
                return !by_mode || fs::read_dir(&events).is_err();
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed = true,
            _ => {}
        }
    }
    closed
}

/// What modes of files ask about.
struct User {
    id: u32,
    groups: Vec<u32>,
}

impl User {
    fn here() -> Self {
        let mut groups: Vec<u32> = getgroups()
            .unwrap_or_default()
            .into_iter()
            .map(Gid::as_raw)
            .collect();
        groups.push(getegid().as_raw());
        Self {
            id: geteuid().as_raw(),
            groups,
        }
    }

    /// Whether a folder's mode lets this user in, whatever capabilities there are.
    fn may_enter(&self, folder: &Path) -> bool {
        fs::metadata(folder).is_ok_and(|data| self.may_search(data.uid(), data.gid(), data.mode()))
    }

    /// inode(7): the first class that fits counts.
    fn may_search(&self, owner: u32, group: u32, mode: u32) -> bool {
        let class = if owner == self.id {
            6
        } else if self.groups.contains(&group) {
            3
        } else {
            0
        };
        mode >> class & 0o1 != 0
    }
}

fn perf_is_closed() -> bool {
    let value = fs::read_to_string(PARANOID).unwrap_or_default();
    let value = value.trim().parse::<i32>();
    value.is_ok_and(|value| value > PARANOID_FOR_PERFMON)
}

fn is_old() -> bool {
    running().is_some_and(|version| version < TYPED_TRACEPOINTS)
}

/// Version of the kernel.
pub(super) fn running() -> Option<(u32, u32)> {
    let release = uname().release().to_string_lossy().into_owned();
    version(&release)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Host = Host {
        tracefs_is_closed: false,
        perf_is_closed: false,
        locks_maps: false,
        is_old: false,
    };

    fn three() -> CapabilitySet {
        CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN
    }

    #[test]
    fn what_is_required_and_missing_is_named() {
        for (held, missing) in [
            (three() - CapabilitySet::BPF, "CAP_BPF"),
            (three() - CapabilitySet::PERFMON, "CAP_PERFMON"),
            (three() - CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        ] {
            let refusal = Needs::of(held, OPEN).refusal().unwrap();
            assert!(refusal.contains(missing), "{refusal}");
            assert_eq!(refusal.matches("CAP_").count(), 1, "{refusal}");
        }
        assert_eq!(Needs::of(three(), OPEN).refusal(), None);
        let admin = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
        assert_eq!(Needs::of(admin, OPEN).refusal(), None);
    }

    #[test]
    fn what_the_host_does_not_ask_for_is_not_missed() {
        let all = three() | CapabilitySet::SYS_PTRACE;
        assert_eq!(Needs::of(all, OPEN).shortcomings().count(), 0);
        assert_eq!(Needs::of(all, OPEN).how_to_give(), Vec::<String>::new());

        let closed = Host {
            tracefs_is_closed: true,
            perf_is_closed: true,
            locks_maps: true,
            is_old: false,
        };
        let needs = Needs::of(all, closed);
        assert!(needs.refusal().unwrap().contains("CAP_SYS_RESOURCE"));
        let named: Vec<&str> = needs.shortcomings().map(|(name, _)| name).collect();
        assert_eq!(named, ["DAC_READ_SEARCH", "SYS_ADMIN"]);
        let old = Host {
            is_old: true,
            ..closed
        };
        let refusal = Needs::of(all, old).refusal().unwrap();
        for name in ["SYS_RESOURCE", "DAC_READ_SEARCH", "SYS_ADMIN"] {
            assert!(refusal.contains(name), "{refusal}");
        }
        assert_eq!(
            needs.how_to_give().first().map(String::as_str),
            Some(
                "setcap cap_bpf,cap_perfmon,cap_net_admin,cap_sys_resource,cap_dac_read_search,cap_sys_admin,cap_sys_ptrace=ep /usr/bin/why502"
            )
        );
    }

    #[test]
    fn a_right_that_is_held_and_needed_is_among_those_to_give() {
        let closed = Host {
            tracefs_is_closed: true,
            ..OPEN
        };
        let held = CapabilitySet::PERFMON
            | CapabilitySet::NET_ADMIN
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::SYS_PTRACE;
        assert_eq!(
            Needs::of(held, closed)
                .how_to_give()
                .first()
                .map(String::as_str),
            Some(
                "setcap cap_bpf,cap_perfmon,cap_net_admin,cap_dac_read_search,cap_sys_ptrace=ep /usr/bin/why502"
            )
        );
    }

    #[test]
    fn a_folder_is_open_by_its_mode_and_not_by_capabilities() {
        let user = User {
            id: 65534,
            groups: vec![502, 65534],
        };
        for (owner, group, mode, expected) in [
            (0, 0, 0o40700, false),
            (0, 0, 0o40750, false),
            (0, 502, 0o40750, true),
            (0, 0, 0o40755, true),
            (65534, 0, 0o40700, true),
            (65534, 0, 0o40077, false),
            (0, 502, 0o40705, false),
        ] {
            assert_eq!(
                user.may_search(owner, group, mode),
                expected,
                "{owner} {group} {mode:o}"
            );
        }
    }

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("7.2-rc1"), Some((7, 2)));
        assert_eq!(version("x"), None);
    }
}

//! Which process is which proxy.
//!
//! In: thread group ids from records, and `/proc`. Out: what the core should know of each:
//! the `proxy` label and whether it is a gateway by name; and its container, pod and network
//! namespace. Identities are kept, bounded, and
//! checked again by the start time of the process, because ids are used again.

mod stat;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_core::observation::Nanos;
use rustc_hash::FxHashMap;

use self::stat::{has_ended, parent, start_ticks};
use crate::clock;
use crate::config::Settings;
use crate::identity::cgroup::{self, Ids};
use crate::identity::neighbours::{Netns, Party};

/// Processes remembered at once. Too small: processes are looked up over and over. Too
/// large: memory, about 100 bytes each.
const MAX_PROCESSES: usize = 8192;

/// How long an identity is used before `/proc` is asked again, ns. Longer: a new process
/// with an old id keeps the old name for so long. Shorter: more reads of `/proc`.
const RECHECK_NANOS: Nanos = 1_000_000_000;

/// How long a process that said nothing is remembered, ns. Shorter: a proxy that was found by
/// what it does, and had a quiet night, has to be found anew.
const FORGET_NANOS: Nanos = 86_400_000_000_000;

/// Longest label taken from an executable name, bytes.
const MAX_LABEL_BYTES: usize = 64;

/// The host's own pid namespace, PROC_PID_INIT_INO (include/linux/proc_ns.h) since 3.8.
const HOST_PIDS: &str = "pid:[4026531836]";

/// Generations of processes of one gateway: Varnish, HAProxy and nginx have two, an nginx that is
/// upgraded has one more each time until the old one quits.
const MAX_GENERATIONS: usize = 8;

/// Bits of a process id, PID_MAX_LIMIT (include/linux/threads.h).
const PID_BITS: u32 = 22;

/// Label of a process whose name cannot be read: it has ended, or `/proc` hides it.
const NAMELESS: &str = "unknown";

/// Executables of gateways, and their label.
const GATEWAYS: [(&str, &str); 14] = [
    ("nginx", "nginx"),
    ("nginx-debug", "nginx"),
    ("haproxy", "haproxy"),
    ("apache2", "httpd"),
    ("httpd", "httpd"),
    ("envoy", "envoy"),
    ("envoy-static", "envoy"),
    ("caddy", "caddy"),
    ("traefik", "traefik"),
    ("varnishd", "varnish"),
    // The thread name of Varnish's child, for when its executable cannot be read.
    ("cache-main", "varnish"),
    ("openresty", "openresty"),
    ("angie", "angie"),
    ("tengine", "tengine"),
];

/// The usual label of a gateway's executable.
pub fn known_gateway(executable: &str) -> Option<&'static str> {
    GATEWAYS
        .iter()
        .find(|(name, _)| *name == executable)
        .map(|(_, label)| *label)
}

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The `proxy` label.
    pub name: Arc<str>,
    /// What it is: a gateway's usual name, by its executable or else by the label the operator
    /// gave it; else the executable.
    pub program: Arc<str>,
    /// Whether it is a gateway.
    pub standing: Standing,
    /// Its container and pod.
    pub ids: Ids,
    /// Its cgroup of version 2, as the agent sees it.
    pub cgroup: Option<Arc<str>>,
    /// Its network namespace, where the agent may read that.
    pub netns: Option<Netns>,
    /// The same for all processes of one gateway: a master process and its workers.
    pub instance: Option<u64>,
}

/// Whether a process is a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By its name, or because the operator says so.
    Gateway,
    /// Not by its name; its behaviour decides.
    Undecided,
    /// The operator wants it left alone.
    Excluded,
}

/// What a look at a process gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Looked at a moment ago.
    Fresh,
    /// Still the process it was; the core may have forgotten it.
    Same(Identity),
    /// A process not seen before, or another one under the same id.
    New(Identity),
}

/// The processes seen.
#[derive(Debug)]
pub struct Processes {
    rules: Rules,
    /// Where processes are shown under the ids that the kernel tells; `None` where they are not.
    proc: Option<PathBuf>,
    known: FxHashMap<u32, Known>,
    /// Those that made room for others, until they are told.
    crowded_out: Vec<u32>,
}

#[derive(Debug)]
struct Rules {
    labels: BTreeMap<String, String>,
    include: BTreeSet<String>,
    exclude: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    /// Ticks since boot, field 22 of proc_pid_stat(5); `None` when it had ended already.
    start: Option<u64>,
    identity: Identity,
    checked: Nanos,
    seen: Nanos,
}

impl Processes {
    /// No process yet; names as the settings say.
    pub fn new(settings: &Settings) -> Self {
        let proc = Path::new("/proc");
        let pids = fs::read_link(proc.join("self/ns/pid"));
        // The kernel tells the host's ids; those of another namespace are other processes.
        let is_host = pids.is_ok_and(|pids| pids == Path::new(HOST_PIDS));
        if !is_host {
            tracing::warn!(
                "the agent does not see the host's processes, so proxies and containers stay unknown; \
                 run it in the host's pid namespace (hostPID: true in Kubernetes, --pid=host in Docker)"
            );
        }
        Self::under(settings, is_host.then(|| proc.to_owned()))
    }

    pub(crate) fn under(settings: &Settings, proc: Option<PathBuf>) -> Self {
        let rules = Rules {
            labels: settings.proxy_names.clone(),
            include: settings.include_processes.clone(),
            exclude: settings.exclude_processes.clone(),
        };
        Self {
            rules,
            proc,
            known: FxHashMap::default(),
            crowded_out: Vec::new(),
        }
    }

    /// Looks at the process a record names.
    pub fn look(&mut self, tgid: u32, now: Nanos) -> Look {
        if let Some(known) = self.known.get_mut(&tgid) {
            known.seen = now;
            if now.saturating_sub(known.checked) < RECHECK_NANOS {
                return Look::Fresh;
            }
            known.checked = now;
            let start = start_ticks(self.proc.as_deref(), tgid);
            // Ended: what it was still holds for the records it left behind.
            if start.is_none() || start == known.start {
                return Look::Same(known.identity.clone());
            }
        }
        if self.known.len() >= MAX_PROCESSES {
            self.make_room();
        }
        let identity = self.identify(tgid);
        let start = start_ticks(self.proc.as_deref(), tgid);
        self.known.insert(
            tgid,
            Known {
                start,
                identity: identity.clone(),
                checked: now,
                seen: now,
            },
        );
        Look::New(identity)
    }

    /// Drops those that said nothing for long; tells which, and which made room for others since
    /// the last time.
    pub fn forget_quiet(&mut self, now: Nanos) -> Vec<u32> {
        let quiet: Vec<u32> = self
            .known
            .iter()
            .filter(|(_, known)| now.saturating_sub(known.seen) >= FORGET_NANOS)
            .map(|(tgid, _)| *tgid)
            .collect();
        for tgid in &quiet {
            self.known.remove(tgid);
        }
        let mut gone = std::mem::take(&mut self.crowded_out);
        gone.retain(|tgid| !self.known.contains_key(tgid));
        gone.extend(quiet);
        gone
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// None is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Drops the one that was quiet longest.
    fn make_room(&mut self) {
        if let Some(tgid) = self
            .known
            .iter()
            .min_by_key(|(_, known)| known.seen)
            .map(|(tgid, _)| *tgid)
        {
            self.known.remove(&tgid);
            self.crowded_out.push(tgid);
        }
    }

    /// What was found out about a process that was looked at.
    pub fn known(&self, tgid: u32) -> Option<&Identity> {
        self.known.get(&tgid).map(|known| &known.identity)
    }

    /// The same, as one end of a connection.
    pub fn party(&self, tgid: u32) -> Option<Party> {
        self.known.get(&tgid).map(|known| Party {
            tgid,
            start: known.start,
            netns: known.identity.netns,
        })
    }

    /// When a process started, ticks since boot, whether it was looked at or not. Asks `/proc`.
    pub fn start(&self, tgid: u32) -> Option<u64> {
        start_ticks(self.proc.as_deref(), tgid)
    }

    /// Whether that process runs still. Asks `/proc`.
    pub fn lives(&self, party: Party) -> bool {
        party.start.is_some()
            && start_ticks(self.proc.as_deref(), party.tgid) == party.start
            && !has_ended(self.proc.as_deref(), party.tgid)
    }

    /// When that process started; `None` when it has ended. Asks `/proc`.
    pub fn started(&self, tgid: u32) -> Option<Nanos> {
        start_ticks(self.proc.as_deref(), tgid).map(clock::of_ticks)
    }

    /// Where the host's processes are shown; `None` where they are not.
    pub fn proc(&self) -> Option<&Path> {
        self.proc.as_deref()
    }

    /// What can be found out about a process, whether it was looked at or not. Asks `/proc`.
    pub fn identify(&self, tgid: u32) -> Identity {
        let mut identity = match self.executable(tgid) {
            Some(executable) => self.rules.identity(&executable),
            None => Identity {
                name: Arc::from(NAMELESS),
                program: Arc::from(NAMELESS),
                standing: Standing::Undecided,
                ids: Ids::default(),
                cgroup: None,
                netns: None,
                instance: None,
            },
        };
        // The agent itself, unless the operator says otherwise.
        if tgid == std::process::id() && identity.standing == Standing::Undecided {
            identity.standing = Standing::Excluded;
        }
        if let Some(folder) = self.folder(tgid) {
            let cgroups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
            identity.ids = cgroup::ids_of(&cgroups);
            identity.cgroup = cgroup::version_2(&cgroups).map(Arc::from);
            identity.netns = fs::metadata(folder.join("ns/net"))
                .ok()
                .map(|netns| netns.ino());
        }
        if identity.standing == Standing::Gateway {
            identity.instance = self.instance(tgid);
        }
        identity
    }

    /// The first process of a gateway with several, from which the others were forked: its id and,
    /// since ids are used again, when it started.
    fn instance(&self, tgid: u32) -> Option<u64> {
        let generations = std::iter::successors(Some(tgid), |tgid| self.forked_from(*tgid));
        let first = generations.take(1 + MAX_GENERATIONS).last()?;
        let start = self.start(first)?;
        Some(start.wrapping_shl(PID_BITS) | u64::from(first))
    }

    /// The parent of a process, where that runs the same program. Asks `/proc`.
    pub fn forked_from(&self, tgid: u32) -> Option<u32> {
        let parent = parent(self.proc.as_deref(), tgid)?;
        let same = self.executable(parent)? == self.executable(tgid)?;
        same.then_some(parent)
    }

    fn folder(&self, tgid: u32) -> Option<PathBuf> {
        Some(self.proc.as_ref()?.join(tgid.to_string()))
    }

    /// File name of the executable, else the name the kernel keeps.
    fn executable(&self, tgid: u32) -> Option<String> {
        let folder = self.folder(tgid)?;
        if let Ok(target) = fs::read_link(folder.join("exe")) {
            let name = target.file_name()?.to_string_lossy().into_owned();
            // An upgraded binary: the kernel says so in the link's text, proc_pid_exe(5).
            return Some(
                name.strip_suffix(" (deleted)")
                    .map(str::to_owned)
                    .unwrap_or(name),
            );
        }
        let name = fs::read_to_string(folder.join("comm")).ok()?;
        Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
    }
}

impl Rules {
    fn identity(&self, executable: &str) -> Identity {
        let known = known_gateway(executable);
        let name = match self.labels.get(executable) {
            Some(label) => label.as_str(),
            None => known.unwrap_or(executable),
        };
        // An operator who calls it nginx says what it is, too.
        let is_product = GATEWAYS.iter().any(|(_, product)| *product == name);
        let program = match known {
            Some(known) => known,
            None if is_product => name,
            None => executable,
        };
        let standing = if self.exclude.contains(executable) {
            Standing::Excluded
        } else if known.is_some()
            || self.include.contains(executable)
            || self.labels.contains_key(executable)
        {
            Standing::Gateway
        } else {
            Standing::Undecided
        };
        Identity {
            name: Arc::from(cut(name)),
            program: Arc::from(cut(program)),
            standing,
            ids: Ids::default(),
            cgroup: None,
            netns: None,
            instance: None,
        }
    }
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_LABEL_BYTES)]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::{FORGET_NANOS, Identity, Ids, Look, Processes, RECHECK_NANOS, Standing};
    use crate::config::Settings;

    struct Proc(PathBuf);

    impl Proc {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("why502-proc-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn process(&self, tgid: u32, exe: Option<&str>, comm: &str, start: u64) {
            let folder = self.0.join(tgid.to_string());
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            if let Some(exe) = exe {
                symlink(Path::new(exe), folder.join("exe")).unwrap();
            }
            fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
            let stat = format!(
                "{tgid} ({comm}) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 999 1"
            );
            fs::write(folder.join("stat"), stat).unwrap();
        }

        fn child_of(&self, parent: u32, tgid: u32, exe: &str, start: u64) {
            self.process(tgid, Some(exe), "worker", start);
            let stat = self.0.join(tgid.to_string()).join("stat");
            let text = fs::read_to_string(&stat).unwrap();
            fs::write(&stat, text.replace(") S 1 ", &format!(") S {parent} "))).unwrap();
        }

        fn contained(&self, tgid: u32, cgroups: &str) {
            fs::write(self.0.join(tgid.to_string()).join("cgroup"), cgroups).unwrap();
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn settings(text: &str) -> Settings {
        Settings::parse(text).unwrap()
    }

    fn identity(look: Look) -> Identity {
        match look {
            Look::New(identity) => identity,
            Look::Fresh | Look::Same(_) => panic!("expected a new process"),
        }
    }

    #[test]
    fn gateways_are_known_by_their_executable() {
        let proc = Proc::new("known");
        proc.process(10, Some("/usr/sbin/apache2"), "apache2", 1);
        proc.process(11, Some("/usr/sbin/nginx (deleted)"), "nginx", 1);
        proc.process(12, None, "cache-main", 1);
        proc.process(13, Some("/usr/bin/node"), "MainThread", 1);
        let mut processes = Processes::under(&Settings::default(), Some(proc.0.clone()));

        let found: Vec<_> = [10, 11, 12, 13, 14]
            .map(|tgid| identity(processes.look(tgid, 1)))
            .into_iter()
            .map(|identity| (identity.name.to_string(), identity.standing))
            .collect();

        assert_eq!(
            found,
            [
                ("httpd".to_owned(), Standing::Gateway),
                ("nginx".to_owned(), Standing::Gateway),
                ("varnish".to_owned(), Standing::Gateway),
                ("node".to_owned(), Standing::Undecided),
                ("unknown".to_owned(), Standing::Undecided),
            ]
        );
    }

    #[test]
    fn the_operator_names_includes_and_excludes() {
        let proc = Proc::new("rules");
        proc.process(10, Some("/opt/edge-proxy"), "edge-proxy", 1);
        proc.process(11, Some("/usr/sbin/nginx"), "nginx", 1);
        proc.process(12, Some("/opt/gateway"), "gateway", 1);
        let settings = settings(
            "include_processes = [\"gateway\"]\nexclude_processes = [\"nginx\"]\n[proxy_names]\nedge-proxy = \"edge\"\n",
        );
        let mut processes = Processes::under(&settings, Some(proc.0.clone()));

        let edge = identity(processes.look(10, 1));

        assert_eq!((&*edge.name, edge.standing), ("edge", Standing::Gateway));
        assert_eq!(identity(processes.look(11, 1)).standing, Standing::Excluded);
        assert_eq!(identity(processes.look(12, 1)).standing, Standing::Gateway);
    }

    #[test]
    fn an_id_used_again_is_a_new_process() {
        let proc = Proc::new("again");
        proc.process(10, Some("/usr/sbin/nginx"), "nginx", 100);
        let mut processes = Processes::under(&Settings::default(), Some(proc.0.clone()));
        identity(processes.look(10, 1));
        proc.process(10, Some("/usr/bin/node"), "node", 200);

        assert_eq!(processes.look(10, 2), Look::Fresh);
        assert_eq!(
            &*identity(processes.look(10, 1 + RECHECK_NANOS)).name,
            "node"
        );
    }

    #[test]
    fn an_ended_process_keeps_its_name_until_it_is_quiet_for_long() {
        let proc = Proc::new("ended");
        proc.process(10, Some("/usr/sbin/nginx"), "nginx", 100);
        let mut processes = Processes::under(&Settings::default(), Some(proc.0.clone()));
        identity(processes.look(10, 1));
        fs::remove_dir_all(proc.0.join("10")).unwrap();

        assert!(matches!(
            processes.look(10, 1 + RECHECK_NANOS),
            Look::Same(_)
        ));
        assert_eq!(processes.forget_quiet(2 + RECHECK_NANOS), Vec::<u32>::new());
        assert_eq!(
            processes.forget_quiet(1 + RECHECK_NANOS + FORGET_NANOS),
            [10]
        );
        assert!(processes.is_empty());
    }
    #[test]
    fn a_process_is_in_the_container_of_its_cgroup() {
        let proc = Proc::new("contained");
        proc.process(10, Some("/usr/sbin/nginx"), "nginx", 100);
        let id = "ab".repeat(32);
        proc.contained(
            10,
            &format!("1:name=systemd:/\n0::/system.slice/docker-{id}.scope\n"),
        );
        proc.process(11, Some("/usr/sbin/nginx"), "nginx", 100);
        proc.contained(11, "0::/system.slice/nginx.service\n");
        let mut processes = Processes::under(&Settings::default(), Some(proc.0.clone()));

        let [inside, outside] = [10, 11].map(|tgid| identity(processes.look(tgid, 1)).ids);

        assert_eq!(inside.container.as_deref(), Some(id.as_str()));
        assert_eq!(outside, Ids::default());
    }

    #[test]
    fn a_gateway_and_its_workers_are_one_instance_and_another_of_that_name_is_not() {
        let proc = Proc::new("instance");
        let nginx = "/usr/sbin/nginx";
        proc.process(5, Some("/usr/bin/bash"), "bash", 1);
        proc.child_of(5, 10, nginx, 100);
        proc.child_of(10, 11, nginx, 101);
        proc.child_of(10, 12, nginx, 102);
        proc.child_of(5, 20, nginx, 100);
        proc.child_of(20, 21, nginx, 103);
        let mut processes = Processes::under(&Settings::default(), Some(proc.0.clone()));

        let instances = [10, 11, 12, 20, 21].map(|tgid| identity(processes.look(tgid, 1)).instance);

        let (one, other) = (instances[0], instances[3]);
        assert!(one.is_some() && other.is_some() && one != other);
        assert_eq!(instances, [one, one, one, other, other]);
    }

    #[test]
    fn a_process_lives_until_it_ends_or_its_id_is_used_again() {
        let proc = Proc::new("lives");
        proc.process(10, Some("/usr/bin/node"), "node", 100);
        let mut processes = Processes::under(&Settings::default(), Some(proc.0.clone()));
        processes.look(10, 1);
        let party = processes.party(10).unwrap();

        assert!(processes.lives(party));
        let stat = proc.0.join("10/stat");
        let alive = fs::read_to_string(&stat).unwrap();
        fs::write(&stat, alive.replace(" S ", " Z ")).unwrap();
        assert!(!processes.lives(party));
        proc.process(10, Some("/usr/bin/node"), "node", 200);
        assert!(!processes.lives(party));
        fs::remove_dir_all(proc.0.join("10")).unwrap();
        assert!(!processes.lives(party));
    }
}

//! Where the packet programs are attached.
//!
//! In: cgroups, as proxies come and go. Out: links, held here by descriptors. Attaching takes a right
//! that the rest of the agent gives up once it has started. One thread keeps it, may do nothing else
//! with it ([`privileges::keep_attaching`]), and knows the two programs alone, which let every packet
//! pass.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use super::KernelError;
use super::cgroup;
use crate::privileges::{self, Confinement};

/// Name of the thread, as `/proc` shows it.
const THREAD: &str = "why502-attach";

/// A loaded packet program, and where in a cgroup it goes (`enum bpf_attach_type`).
pub(super) struct PacketProgram {
    pub(super) program: OwnedFd,
    pub(super) attach_type: u32,
}

/// What a cgroup has while packets of its sockets are seen.
type Links = Vec<OwnedFd>;

/// Attaches both programs to a cgroup and answers.
struct Order {
    cgroup: File,
    answer: mpsc::Sender<io::Result<Links>>,
}

/// The links.
pub(super) struct Packets {
    /// `None`: nothing is attached any more, and the thread has ended or is about to.
    orders: Option<mpsc::Sender<Order>>,
    links: BTreeMap<PathBuf, Links>,
}

impl Packets {
    /// Nothing attached. Call it while this thread has all rights: the one that attaches takes them
    /// from it.
    ///
    /// # Errors
    /// There is no thread to be had, or it cannot give up the other rights.
    pub(super) fn start(
        programs: Vec<PacketProgram>,
        confinement: Confinement,
    ) -> Result<Self, KernelError> {
        let (orders, received) = mpsc::channel::<Order>();
        let (ready, is_ready) = mpsc::channel();
        let serve = move || {
            let confined = privileges::keep_attaching(confinement, cgroup::LINK_CREATE);
            let failed = confined.is_err();
            if ready.send(confined).is_err() || failed {
                return;
            }
            for Order { cgroup, answer } in received {
                let links = programs
                    .iter()
                    .map(|one| cgroup::link(one.program.as_fd(), cgroup.as_fd(), one.attach_type));
                // Who asked waits for it.
                let _ = answer.send(links.collect());
            }
        };
        let started = thread::Builder::new().name(THREAD.to_owned()).spawn(serve);
        started.map_err(KernelError::Attacher)?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(Self {
                orders: Some(orders),
                links: BTreeMap::new(),
            }),
            Ok(Err(error)) => Err(KernelError::Attacher(io::Error::other(error))),
            Err(error) => Err(KernelError::Attacher(io::Error::other(error))),
        }
    }

    /// Packets of the sockets in this cgroup are seen from now on.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub(super) fn attach(&mut self, path: &Path) -> Result<(), KernelError> {
        let failed = |source| KernelError::Cgroup {
            path: path.to_path_buf(),
            source,
        };
        let (answer, answered) = mpsc::channel();
        let order = Order {
            cgroup: cgroup::open(path)?,
            answer,
        };
        let ended = |_| failed(io::Error::other("the thread that attaches has ended"));
        let orders = self.orders.as_ref().ok_or_else(|| ended(mpsc::RecvError))?;
        orders.send(order).map_err(|_| ended(mpsc::RecvError))?;
        let links = answered.recv().map_err(ended)?.map_err(failed)?;
        self.links.insert(path.to_path_buf(), links);
        Ok(())
    }

    /// Nothing is attached from now on.
    pub(super) fn end(&mut self) {
        self.orders = None;
    }

    /// Packets of the sockets in this cgroup are not seen any more.
    pub(super) fn detach(&mut self, path: &Path) {
        self.links.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_attached_is_an_error_and_no_link() {
        let confinement = Confinement {
            capabilities: false,
            system_calls: false,
        };
        let program = OwnedFd::from(File::open("/dev/null").unwrap());
        let one = PacketProgram {
            program,
            attach_type: 0,
        };
        let mut packets = Packets::start(vec![one], confinement).unwrap();

        assert!(packets.attach(Path::new("/nowhere")).is_err());
        assert!(packets.attach(Path::new("/proc")).is_err());
        assert!(packets.links.is_empty());
    }
}

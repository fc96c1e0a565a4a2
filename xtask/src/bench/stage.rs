//! Who takes part in a run, and in which cgroup each is: client, proxy, application, and what
//! watches them.

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use serde::Serialize;

use super::proxy::Proxy;
use crate::host::cgroup::Cgroup;

/// How client, proxy and application are spread over cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Layout {
    /// Each has one of its own, as services and containers have.
    Apart,
    /// All are in one.
    Together,
}

impl Layout {
    /// What a reader calls it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Apart => "Client, proxy and application each in a cgroup of its own",
            Self::Together => "All in one cgroup",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Together => "together",
        }
    }
}

/// The cgroups of those that take part.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) client: Rc<Cgroup>,
    pub(super) proxy: Rc<Cgroup>,
    pub(super) application: Rc<Cgroup>,
}

/// CPU time of those that take part, seconds. Three numbers where each has a cgroup of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Used {
    /// Of all three.
    pub(super) all: f64,
    /// Of the proxy; nothing where it is not told apart.
    pub(super) proxy: Option<f64>,
}

impl Used {
    /// Since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        let proxy = self.proxy.zip(earlier.proxy);
        Self {
            all: self.all - earlier.all,
            proxy: proxy.map(|(now, earlier)| now - earlier),
        }
    }
}

impl Places {
    fn new(layout: Layout, name: &str) -> Result<Self> {
        let make = |who: &str| Cgroup::new(&format!("{name}-{who}")).map(Rc::new);
        let client = make("client")?;
        let (proxy, application) = match layout {
            Layout::Apart => (make("proxy")?, make("application")?),
            Layout::Together => (Rc::clone(&client), Rc::clone(&client)),
        };
        Ok(Self {
            client,
            proxy,
            application,
        })
    }

    fn used(&self) -> Result<Used> {
        let client = self.client.cpu_seconds()?;
        if Rc::ptr_eq(&self.client, &self.proxy) {
            return Ok(Used {
                all: client,
                proxy: None,
            });
        }
        let proxy = self.proxy.cpu_seconds()?;
        Ok(Used {
            all: client + proxy + self.application.cpu_seconds()?,
            proxy: Some(proxy),
        })
    }
}

/// A proxy and its application that run, and where a client for them is to be started.
#[derive(Debug)]
pub(super) struct Stage {
    // Order of ending: what runs before where it runs.
    pub(super) proxy: Proxy,
    places: Places,
    pub(super) layout: Layout,
}

impl Stage {
    /// Starts proxy and application, files in a folder of `folder`; the proxy with so many workers.
    pub(super) fn start(folder: &Path, layout: Layout, workers: usize) -> Result<Self> {
        let name = format!("{}-{workers}", layout.name());
        let places = Places::new(layout, &format!("bench-{name}"))?;
        let proxy = Proxy::start(&folder.join(name), &places, workers)?;
        Ok(Self {
            proxy,
            places,
            layout,
        })
    }

    /// Where a client is started.
    pub(super) fn client(&self) -> &Cgroup {
        &self.places.client
    }

    /// CPU time of client, proxy and application so far.
    pub(super) fn used(&self) -> Result<Used> {
        self.places.used()
    }
}

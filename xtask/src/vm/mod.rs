//! `vm`: the same binary on every kernel of the matrix.
//!
//! In: names of kernels. Out: for each a run of the tests' `guest` on it, in a virtual machine
//! or, for the kernel that runs here, in a network namespace; what is not as `expected.md` has
//! it, and what is not as `docs/kernels.md` has it, is an error. Reading order: [`kernels`],
//! [`debian`], [`initramfs`], [`machine`], then [`answer`], [`expected`], [`page`].

mod answer;
mod debian;
mod expected;
mod initramfs;
mod kernels;
mod machine;
mod page;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use crate::host::apt::{self, Package};
use crate::host::{command, kernel, target_dir};
use crate::setup;

use answer::Answer;
use expected::Expected;
use kernels::{Kernel, Source};
use page::Measured;

/// Runs virtual machines.
pub(crate) const QEMU: Package = Package {
    name: "qemu-system-x86",
    shows: "qemu-system-x86_64",
};

/// Of the run on this kernel; see [`machine`] for the others.
const LIMIT: Duration = Duration::from_secs(180);

/// Which kernels, and what to do with the result.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Kernels by name, or `all`: 5.10, 6.1, 6.12, 6.18 (the one that runs here), 7.2.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Look for newer packages of the kernels that were fetched before.
    #[arg(long)]
    refresh: bool,
    /// Write what was measured into docs/kernels.md. Wants all kernels.
    #[arg(long)]
    bless: bool,
}

/// Runs them, prints the tables, and says what is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        kernel: names,
        refresh,
        bless,
    } = options;
    let chosen = kernels::chosen(names)?;
    if *bless && chosen.len() < kernels::KERNELS.len() {
        bail!("--bless writes a page of all kernels: leave --kernel out");
    }
    let by_name = !names.is_empty() && !names.iter().any(|name| name == "all");
    let place = Place::prepare()?;
    let expected = Expected::read();
    let mut measured = Vec::new();
    let mut wrong = Vec::new();
    for kernel in chosen {
        let name = kernel.name;
        match place.ask(&kernel, *refresh) {
            Ok(Some(one)) => {
                let differences = expected.differences(name, &one.answer);
                wrong.extend(differences.iter().map(|what| format!("{name}: {what}")));
                measured.push(one);
            }
            Ok(None) if !by_name => println!("{name}: this machine runs another kernel; left out"),
            Ok(None) => wrong.push(format!("{name}: this machine runs another kernel")),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    println!("\n{}", page::tables(&measured));
    if *bless {
        page::bless(&measured)?;
        println!("written: {}", page::path().display());
    } else {
        let stale = page::stale(&measured)?;
        wrong.extend(stale.iter().map(|what| format!("docs/kernels.md: {what}")));
    }
    if !wrong.is_empty() {
        bail!("{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
    println!("{} kernels as expected", measured.len());
    Ok(())
}

/// The one that tells most in a short time.
pub(crate) fn quick() -> Result<()> {
    run(&Options {
        kernel: vec![kernels::QUICK.to_owned()],
        ..Options::default()
    })
}

/// All of them.
pub(crate) fn all() -> Result<()> {
    run(&Options::default())
}

/// What every run needs, made once.
struct Place {
    folder: PathBuf,
    agent: PathBuf,
    /// Folder of the tests' programs.
    tests: PathBuf,
    initramfs: PathBuf,
}

impl Place {
    fn prepare() -> Result<Self> {
        apt::ensure(&[setup::NGINX, setup::IPROUTE, QEMU], "booting kernels")?;
        let agent = build::everything(true)?;
        let mut cargo = command::cargo();
        cargo.args(["build", "--quiet", "--package", "e2e", "--bins"]);
        let guest = build::binary(&mut cargo, "guest", false)?;
        let tests = guest.parent().unwrap_or(&guest).to_path_buf();
        let folder = target_dir().join("vm");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self {
            initramfs: initramfs::write(&folder, &agent, &tests)?,
            folder,
            agent,
            tests,
        })
    }

    /// What a kernel answers; `None` for the kernel of this machine when it is another.
    fn ask(&self, kernel: &Kernel, refresh: bool) -> Result<Option<Measured>> {
        let folder = self.folder.join(kernel.name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let mut started = Instant::now();
        let (from, text) = match &kernel.source {
            Source::Debian(package) => {
                let image = debian::image(&folder, package, refresh)?;
                println!("{}: {}", kernel.name, image.package);
                started = Instant::now();
                let text = machine::boot(&folder, &image.path, &self.initramfs)?;
                (format!("{} ({})", image.package, package.suite), text)
            }
            Source::Host if !runs_here(kernel.name) => return Ok(None),
            Source::Host => {
                println!("{}: the kernel of this machine", kernel.name);
                ("the developers' machine".to_owned(), self.here(&folder)?)
            }
        };
        let answer = Answer::parse(&text)?;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{}: {} answered after {seconds:.0} s",
            kernel.name, answer.release
        );
        if !kernels::is_release_of(&answer.release, kernel.name) {
            bail!("{} was booted instead", answer.release);
        }
        Ok(Some(Measured {
            kernel: kernel.name,
            from,
            seconds,
            answer,
        }))
    }

    /// Asks the kernel of this machine.
    fn here(&self, folder: &Path) -> Result<String> {
        kernel::require()?;
        let _tracefs = kernel::Tracefs::ensure()?;
        let path = folder.join("answer");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut guest = Command::new("unshare");
        guest
            .args(["--net", "--kill-child"])
            .arg(self.tests.join("guest"))
            .env("WHY502_BIN", &self.agent)
            .stdout(file);
        let result = command::run_within(&mut guest, LIMIT);
        let text = fs::read_to_string(&path).unwrap_or_default();
        // A guest that found something wrong ends with an error, and has said what.
        if text.trim().is_empty() {
            result?;
        }
        Ok(text)
    }
}

fn runs_here(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    kernels::is_release_of(release.trim(), name)
}

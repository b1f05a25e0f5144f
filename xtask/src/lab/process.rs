//! The daemons as processes: they belong to nobody, and a pid file says which they are.

use super::config::{node_folder, write_file};
use super::namespace;
use super::shape::{Host, Shape};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a signal may take until it shows.
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);

/// What became of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs.
    Running,
    /// SIGSTOPped.
    Frozen,
    /// There is none.
    Dead,
}

/// The daemon of one node.
#[derive(Clone, Debug)]
pub struct Daemon {
    name: String,
    namespace: String,
    folder: PathBuf,
}

impl Daemon {
    /// The daemon of node `id`.
    pub fn new(shape: &Shape, id: u32) -> Self {
        Self {
            name: Host::Node(id).name(),
            namespace: shape.namespace(Host::Node(id)),
            folder: node_folder(&shape.name, id),
        }
    }

    /// Its process and state; a pid that belongs to something else by now counts as dead.
    pub fn state(&self) -> (State, Option<i32>) {
        let pid = fs::read_to_string(self.folder.join("netftd.pid")).ok();
        let Some(pid) = pid.and_then(|text| text.trim().parse::<i32>().ok()) else {
            return (State::Dead, None);
        };
        if !namespace::holds(&self.namespace, pid) {
            return (State::Dead, None);
        }
        match all_stopped(pid) {
            true => (State::Frozen, Some(pid)),
            false => (State::Running, Some(pid)),
        }
    }

    /// Where `netft` reaches it.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Starts it with more `options`, unless it lives already. [`Self::wait_until_it_answers`] says when it is there.
    pub fn spawn(&self, netftd: &Path, options: &[&str]) -> Result<()> {
        if self.state().0 != State::Dead {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("netftd.log"))
            .with_context(|| format!("the log of {} can't be written", self.name))?;
        let pid_file = self.folder.join("netftd.pid");
        write_file(&pid_file, "", 0o644)?;
        // A session of its own, and init as parent: it must survive us, and SIGKILL must leave no zombie of ours.
        let mut command = Command::new("setsid");
        command
            .args(["--fork", "sh", "-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(&pid_file)
            .arg(netftd)
            .arg("--config")
            .arg(self.folder.join("netft.toml"))
            .args(options)
            .current_dir(&self.folder)
            .env_remove("NETFT_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("log")?)
            .stderr(log);
        let status = namespace::spawn(&self.namespace, &mut command)?.wait().context("setsid")?;
        if !status.success() {
            bail!("netftd of {} can't be started: setsid failed", self.name);
        }
        let started = || fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'));
        wait(SIGNAL_LIMIT, started).with_context(|| format!("netftd of {} doesn't start", self.name))
    }

    /// Waits until the daemon answers `netft status`; fails with its last words when it ends instead.
    pub fn wait_until_it_answers(&self, netft: &Path) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if UnixStream::connect(self.socket()).is_ok() && self.answers(netft) {
                return Ok(());
            }
            let log = self.folder.join("netftd.log");
            if self.state().0 == State::Dead {
                bail!("netftd of {} ended at once:\n{}\n(from {})", self.name, tail(&log), log.display());
            }
            if Instant::now() > deadline {
                bail!(
                    "netftd of {} doesn't answer after {} s:\n{}\n(from {})",
                    self.name,
                    START_LIMIT.as_secs(),
                    tail(&log),
                    log.display()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn answers(&self, netft: &Path) -> bool {
        let mut command = Command::new(netft);
        command.args(["status", "--json"]).env("NETFT_SOCKET", self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// SIGKILLs it; returns when it is gone. Nothing happens if it is dead.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL, State::Dead)
    }

    /// SIGTERMs it, which is a clean stop; returns when it is gone.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM, State::Dead)
    }

    /// SIGSTOPs it; returns when it stands still.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP, State::Frozen)
    }

    /// SIGCONTs it.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT, State::Running)
    }

    fn signal(&self, signal: Signal, wanted: State) -> Result<()> {
        let (state, pid) = self.state();
        let Some(pid) = pid.filter(|_| state != wanted) else {
            if state == wanted {
                return Ok(());
            }
            bail!("netftd of {} isn't running: start it with `lab start {}`", self.name, self.name);
        };
        // ESRCH: it ended between the look and the call; the wait sees what it is now.
        let _ = kill(Pid::from_raw(pid), signal);
        wait(SIGNAL_LIMIT, || self.state().0 == wanted)
            .with_context(|| format!("netftd of {} (process {pid}) didn't obey {signal}", self.name))
    }
}

/// Whether every thread stands still.
fn all_stopped(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().filter_map(|thread| task_state(&thread.path())).all(|state| state == 'T')
}

/// The state letter of a thread, from the `stat` in its folder under `/proc`; `None` when it is gone.
pub fn task_state(folder: &Path) -> Option<char> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name before it may hold anything, also spaces and brackets.
    stat.rsplit(") ").next()?.chars().next()
}

fn wait(limit: Duration, condition: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            bail!("nothing happened within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

//! Load on every core, by threads of this process: whatever ends the process ends the load.

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::hint::spin_loop;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Priority of FIFO hogs: below the detection thread's 60.
pub const FIFO_PRIORITY: u8 = 50;
/// A FIFO hog spins this long, then rests for [`FIFO_REST`]: 90 % in all. More than 95 % of a second would set off the
/// kernel's own guard against runaway real-time threads, which stops *all* of them, the detection thread too.
const FIFO_BURST: Duration = Duration::from_millis(90);
const FIFO_REST: Duration = Duration::from_millis(10);
/// Sleepers per core in a timer storm, and how long each sleeps: some 100 000 timer interrupts a second.
const SLEEPERS: usize = 8;
const SLEEP: Duration = Duration::from_micros(50);

/// What the threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Two ordinary threads per core that never sleep.
    Cpu,
    /// Many ordinary threads per core that sleep for 50 µs over and over.
    Timers,
    /// One SCHED_FIFO thread per core at priority 50, busy for 90 ms of every 100.
    Fifo,
}

/// Load that runs until it is dropped.
#[derive(Debug)]
pub struct Stress {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stress {
    /// Starts the load; returns when every thread is at work.
    pub fn start(kind: Kind) -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("the CPUs of this process")?;
        let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let mut stress = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for cpu in cpus {
            for _ in 0..threads_per_core(kind) {
                stress.thread(kind, cpu)?;
            }
        }
        Ok(stress)
    }

    fn thread(&mut self, kind: Kind, cpu: usize) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        let (ready, started) = mpsc::channel();
        let work = move || {
            let prepared = prepare(kind, cpu);
            let go = prepared.is_ok();
            // The starter waits for this message, so it is there to receive it.
            let _ = ready.send(prepared);
            if go {
                run(kind, &stop);
            }
        };
        let name = format!("stress-{cpu}");
        let thread = std::thread::Builder::new().name(name).spawn(work).context("no thread for the load")?;
        self.threads.push(thread);
        started.recv().context("a thread of the load died")?
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in there has been printed, and ended the load all the same.
            let _ = thread.join();
        }
    }
}

fn threads_per_core(kind: Kind) -> usize {
    match kind {
        Kind::Cpu => 2,
        Kind::Timers => SLEEPERS,
        Kind::Fifo => 1,
    }
}

fn prepare(kind: Kind, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).context("CPU number")?;
    let this_thread = Pid::from_raw(0);
    sched_setaffinity(this_thread, &set).with_context(|| format!("a thread can't be bound to CPU {cpu}"))?;
    match kind {
        Kind::Cpu => Ok(()),
        // The default slack of 50 µs would merge the timers of all sleepers.
        Kind::Timers => nix::sys::prctl::set_timerslack(1).context("timer slack"),
        Kind::Fifo => become_fifo(),
    }
}

/// By the `chrt` command: no safe call in std or nix sets a policy.
fn become_fifo() -> Result<()> {
    let thread = nix::unistd::gettid().to_string();
    let priority = FIFO_PRIORITY.to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", &priority, &thread]).stdin(Stdio::null());
    let output = command.output().context("the command `chrt` is missing: install util-linux")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "SCHED_FIFO {priority} is refused: {}", complaint.trim());
    Ok(())
}

fn run(kind: Kind, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match kind {
            Kind::Cpu => spin_for(Duration::from_millis(1)),
            Kind::Timers => std::thread::sleep(SLEEP),
            Kind::Fifo => {
                spin_for(FIFO_BURST);
                std::thread::sleep(FIFO_REST);
            }
        }
    }
}

fn spin_for(span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        spin_loop();
    }
}

/// Runs a load for `seconds`, at most an hour.
pub fn run_for(kind: Kind, seconds: u64) -> Result<()> {
    if !(1..=3600).contains(&seconds) {
        bail!("--seconds {seconds}: use 1 to 3600");
    }
    let stress = Stress::start(kind)?;
    std::thread::sleep(Duration::from_secs(seconds));
    drop(stress);
    Ok(())
}

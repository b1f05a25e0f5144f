//! Network namespaces: entering them, starting programs in them, finding who lives in them.

use super::process::task_state;
use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Where named namespaces live, as for `ip netns`.
const FOLDER: &str = "/run/netns";

/// Path of a named namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Names of all namespaces.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Runs `work` on a thread of its own inside the network namespace `name`.
///
/// Only the network changes: sockets, links and XDP attachments belong to the namespace, files stay the caller's. The
/// thread ends with `work`, so nothing of the caller stays behind in the namespace but what `work` returns.
pub fn enter<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = open(name)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("namespace {name} can't be entered"))?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow!("a thread in namespace {name} panicked")))
    })
}

/// Starts `command` inside the network namespace `name`, with a `/sys` that shows this namespace's interfaces.
///
/// sysfs shows the interfaces of the namespace in which it was mounted, hence the private mount; `/sys/fs/bpf` stays
/// the machine's own (`ip netns exec` hides it, and so all pins).
pub fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    enter(name, || {
        private_sys().with_context(|| format!("/sys can't be mounted for namespace {name}"))?;
        command
            .spawn()
            .with_context(|| format!("{} can't be started", command.get_program().to_string_lossy()))
    })
}

fn private_sys() -> Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave, not private: namespaces and pins that are unmounted outside must not be kept alive in here.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    let keep: Vec<(File, &str)> =
        ["/sys/fs/bpf", "/sys/fs/cgroup"].into_iter().filter_map(|at| Some((open_path(at)?, at))).collect();
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE)?;
    for (folder, at) in keep {
        let source = format!("/proc/thread-self/fd/{}", folder.as_raw_fd());
        mount(Some(source.as_str()), at, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    }
    Ok(())
}

fn open_path(path: &str) -> Option<File> {
    let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY | nix::libc::O_CLOEXEC;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

fn open(name: &str) -> Result<File> {
    File::open(path(name)).with_context(|| format!("there is no network namespace {name}"))
}

/// What tells namespaces apart: device and inode of their file in nsfs.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether process `pid` lives in the namespace `name`, or is still dying.
///
/// A thread that exits leaves its namespaces before the sockets that it was the last to hold are closed, and becomes
/// a zombie after that (`do_exit`, kernel/exit.c: `exit_task_namespaces`, `exit_task_work`, `exit_notify`). So a
/// killed process is gone only when each of its threads is gone or a zombie.
pub fn holds(name: &str, pid: i32) -> bool {
    let Some(wanted) = identity(&path(name)) else { return false };
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().map(|thread| thread.path()).any(|thread| match identity(&thread.join("ns/net")) {
        Some(found) => found == wanted,
        None => task_state(&thread).is_some_and(|state| !matches!(state, 'Z' | 'X')),
    })
}

/// Processes with a thread in one of the namespaces `names`.
pub fn processes(names: &[String]) -> Vec<i32> {
    let nsfs = identity(Path::new("/proc/self/ns/net"));
    // A leftover file that is no mounted namespace is on another device, and the machine's own namespace is nobody's lab.
    let wanted: Vec<Identity> = names
        .iter()
        .filter_map(|name| identity(&path(name)))
        .filter(|id| nsfs.is_some_and(|own| own.0 == id.0 && own != *id))
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| lives_in(*pid, &wanted)).collect()
}

fn lives_in(pid: i32, wanted: &[Identity]) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads
        .flatten()
        .any(|thread| identity(&thread.path().join("ns/net")).is_some_and(|id| wanted.contains(&id)))
}

/// Ends every process in the namespaces `names` but the caller, and waits until they are gone.
pub fn end_processes(names: &[String]) -> Result<()> {
    let own = Pid::this().as_raw();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left: Vec<i32> = processes(names).into_iter().filter(|pid| *pid != own).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {left:?} in {} don't die: are they stuck in the kernel?", names.join(", "));
        }
        for pid in left {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes the namespace `name` if there is one. Its interfaces go with it.
pub fn remove(name: &str) -> Result<()> {
    let path = path(name);
    // EINVAL: a leftover file with nothing mounted.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", path.display()))
        }
        _ => Ok(()),
    }
}

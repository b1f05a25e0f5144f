//! The system calls that no crate wraps the way netft needs them: the only modules of the shell, besides `mmap`, with
//! `unsafe` in them. Everything here is a thin, safe function; policy lives with the callers.

pub mod allocator;
pub mod bpf;
pub mod device;
pub mod netlink;
pub mod packet;
pub mod socket;

use netft_core::types::Nanos;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Turns the C convention (-1 and errno) into a result.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that return a length.
fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `size_of::<T>()` as the socket API wants it.
#[expect(clippy::cast_possible_truncation, reason = "sizes of C structures fit in 32 bits")]
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// CLOCK_BOOTTIME in nanoseconds: the clock of `bpf_ktime_get_boot_ns`, and of everything in netft.
#[inline]
pub fn boottime() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call. The clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Returns once every CPU has been outside of all code that was running in the kernel without being preempted when this was
/// called, eBPF programs included (RCU). Some milliseconds.
pub fn wait_for_all_cpus() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: membarrier(2) takes three numbers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    check(i32::try_from(result).unwrap_or(-1)).map(drop)
}

/// Gives the calling thread SCHED_FIFO at `priority` (1..=99). Children don't inherit it.
pub fn schedule_fifo(priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: `parameters` is a valid sched_param; 0 names the calling thread.
    check(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    })?;
    Ok(())
}

/// Gives the calling thread ordinary scheduling at `nice` (-20..=19), with the shortest timer slack.
pub fn schedule_ordinary(nice: i8) -> io::Result<()> {
    // SAFETY: both calls take plain numbers and concern the calling thread only (Linux: who = 0 with PRIO_PROCESS is
    // the thread).
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0);
        check(libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice)))?;
    }
    Ok(())
}

/// The calling thread's id.
pub fn thread_id() -> u32 {
    // SAFETY: no arguments, can't fail.
    unsafe { libc::gettid() }.unsigned_abs()
}

/// How many CPUs there can be: their numbers are below this.
pub fn possible_cpus() -> usize {
    // "0-3", "0", "0-1,4-7" (Documentation/admin-guide/cputopology.rst).
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map_or(1, |last| last + 1)
}

/// The CPUs that the calling thread may run on, in order; empty if the kernel doesn't say.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is a plain bit array for which all zeroes is valid; sched_getaffinity writes at most its size,
    // and CPU_ISSET stays inside it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) < 0 {
            return Vec::new();
        }
        (0..8 * size_of::<libc::cpu_set_t>()).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

/// Lets the calling thread run on `cpus` only.
pub fn pin_to(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: cpu_set_t is a plain bit array for which all zeroes is valid, CPU_SET stays inside it because of the
    // check, and sched_setaffinity reads exactly its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus {
            if cpu >= 8 * size_of::<libc::cpu_set_t>() {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            libc::CPU_SET(cpu, &mut set);
        }
        check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set))?;
    }
    Ok(())
}

/// Locks all memory that is mapped now, and pages mapped later as soon as they are touched, so that untouched parts of
/// big mappings (stacks of other threads) cost nothing.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: mlockall takes flags only.
    unsafe {
        check(libc::mlockall(libc::MCL_CURRENT))?;
        check(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT))?;
    }
    Ok(())
}

/// Which of the capabilities in `wanted` (number, name) this process lacks. CAP_SYS_ADMIN implies CAP_BPF and
/// CAP_PERFMON (capabilities(7)).
pub fn missing_capabilities(wanted: &[(u32, &'static str)]) -> Vec<&'static str> {
    const SYS_ADMIN: u32 = 21;
    const IMPLIED: [u32; 2] = [38, 39];
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let Some(effective) = effective else {
        return Vec::new();
    };
    let has = |capability: u32| effective >> capability & 1 == 1;
    wanted
        .iter()
        .filter(|(number, _)| !(has(*number) || IMPLIED.contains(number) && has(SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect()
}

/// A non-blocking eventfd with count 0.
pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes plain numbers; the descriptor it returns is new and ours alone.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?)) }
}

/// Adds 1 to an eventfd: wakes whoever polls it. Never blocks.
pub fn wake(event: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: 8 bytes are read from `one`. A failure means the counter is full, so the reader is woken already.
    unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Takes an eventfd back to 0.
pub fn clear(event: BorrowedFd<'_>) {
    let mut count = 0u64;
    // SAFETY: 8 bytes are written to `count`. A failure means it was 0.
    unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// Lets tokio wait for input on `fd`. Must be called within a runtime.
pub fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an OwnedFd keeps its descriptor open and the same for as long as it lives (tokio's condition), and an
    // Arc keeps it alive.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(|error| error.into_parts().1)
}

/// What to poll: a descriptor and POLLIN etc.; layout of `struct pollfd`.
pub type PollFd = libc::pollfd;

/// A [`PollFd`] that waits for input.
pub fn poll_in(fd: BorrowedFd<'_>) -> PollFd {
    PollFd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Waits until one of `fds` is ready or `timeout_ns` passed (`None` = for ever). Returns how many are ready; a signal
/// counts as a timeout.
pub fn poll(fds: &mut [PollFd], timeout_ns: Option<Nanos>) -> io::Result<usize> {
    let timeout = timeout_ns.map(|ns| libc::timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (ns % 1_000_000_000).cast_signed(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the pointer and the length come from one slice; `timeout` is null or points to a timespec that outlives
    // the call; no signal mask is given.
    let ready =
        unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout, std::ptr::null()) };
    match check(ready) {
        Ok(ready) => Ok(ready.unsigned_abs() as usize),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

/// Touches `BYTES` of the calling thread's stack, so that later calls fault no page in.
#[inline(never)]
pub fn touch_stack() {
    const BYTES: usize = 64 * 1024;
    let mut stack = [0u8; BYTES];
    for page in stack.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&mut stack);
}

/// Takes an exclusive lock on an open file or folder; `false` = somebody else has it. Ends when the file is closed.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and flags.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves the calling thread into a new network namespace; threads that it starts later are in it too.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare takes flags; CLONE_NEWNET concerns the calling thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Moves the calling thread into the network namespace of an open `/run/netns/...` or `/proc/.../ns/net` file.
pub fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which the caller keeps open, and a flag.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Whether `path` is on a BPF file system.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let path = c_path(path)?;
    // SAFETY: all zeroes is a valid statfs; the path is a C string; the kernel fills the structure.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        check(libc::statfs(path.as_ptr(), &raw mut stat))?;
        Ok(stat.f_type == BPF_FS_MAGIC)
    }
}

/// Mounts a BPF file system on `path`.
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RELATIME;
    // SAFETY: all strings are C strings that outlive the call.
    check(unsafe {
        libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), flags, c"mode=0700".as_ptr().cast())
    })?;
    Ok(())
}

fn c_path(path: &Path) -> io::Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_clock_moves_forward() {
        let first = boottime();
        assert!(first > 0);
        assert!(boottime() >= first);
    }

    #[test]
    fn an_event_wakes_a_poll_until_it_is_cleared() {
        let event = event_fd().unwrap();
        let mut fds = [poll_in(event.as_fd())];
        assert_eq!(poll(&mut fds, Some(0)).unwrap(), 0);
        wake(event.as_fd());
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        clear(event.as_fd());
        assert_eq!(poll(&mut fds, Some(1000)).unwrap(), 0);
    }
}

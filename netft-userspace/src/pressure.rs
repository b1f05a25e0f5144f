//! Why the detection thread was late: the hypervisor had its CPU, or others on this machine did.

use std::path::PathBuf;

/// Microseconds per tick of /proc/stat (USER_HZ is 100 on every architecture that Linux supports today, proc(5)).
const TICK_US: u64 = 10_000;

/// What was taken from a thread, each in microseconds, since some point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// From its CPUs by the hypervisor (`steal` in /proc/stat), in steps of 10 000.
    pub stolen_us: u64,
    /// By others: it was ready to run and waited for a CPU (/proc/PID/task/TID/schedstat).
    pub waited_us: u64,
}

impl Taken {
    fn since(self, earlier: Self) -> Self {
        Self {
            stolen_us: self.stolen_us.saturating_sub(earlier.stolen_us),
            waited_us: self.waited_us.saturating_sub(earlier.waited_us),
        }
    }
}

/// Watches one thread. What the kernel doesn't tell stays 0.
#[derive(Debug)]
pub struct Pressure {
    cpus: Vec<usize>,
    schedstat: PathBuf,
    first: Taken,
    last: Taken,
}

impl Pressure {
    /// Thread `tid` of this process, which runs on `cpus`.
    pub fn new(tid: u32, cpus: &[usize]) -> Self {
        let schedstat = PathBuf::from(format!("/proc/self/task/{tid}/schedstat"));
        let mut this =
            Self { cpus: cpus.to_vec(), schedstat, first: Taken::default(), last: Taken::default() };
        this.first = this.read();
        this.last = this.first;
        this
    }

    /// Since [`Pressure::new`].
    pub fn in_all(&self) -> Taken {
        self.read().since(self.first)
    }

    /// Since the last call, or [`Pressure::new`].
    pub fn lately(&mut self) -> Taken {
        let now = self.read();
        now.since(std::mem::replace(&mut self.last, now))
    }

    fn read(&self) -> Taken {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let schedstat = std::fs::read_to_string(&self.schedstat).unwrap_or_default();
        Taken { stolen_us: stolen_us(&stat, &self.cpus), waited_us: waited_us(&schedstat) }
    }
}

fn stolen_us(stat: &str, cpus: &[usize]) -> u64 {
    let of_cpu = |line: &str| {
        let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
        let cpu: usize = fields.next()?.parse().ok()?;
        // user, nice, system, idle, iowait, irq, softirq, then steal.
        let ticks: u64 = fields.nth(7)?.parse().ok()?;
        cpus.contains(&cpu).then_some(ticks * TICK_US)
    };
    stat.lines().filter_map(of_cpu).sum()
}

fn waited_us(schedstat: &str) -> u64 {
    schedstat.split_ascii_whitespace().nth(1).and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat =
            "cpu  9 9 9 9 9 9 9 99 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 80 9 10\nintr 5\n";
        assert_eq!(stolen_us(stat, &[1]), 800_000);
        assert_eq!(stolen_us(stat, &[0, 1]), 880_000);
        assert_eq!(stolen_us("", &[0]), 0);
        assert_eq!(waited_us("840280 1265221 3\n"), 1265);
        assert_eq!(waited_us(""), 0);
    }

    #[test]
    fn a_thread_that_runs_has_waited_some_time_or_none() {
        let mut pressure = Pressure::new(std::process::id(), &[0]);
        let (lately, again) = (pressure.lately(), pressure.lately());
        assert!(pressure.in_all().waited_us >= lately.waited_us.max(again.waited_us));
    }
}

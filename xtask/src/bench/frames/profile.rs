//! Where the time goes: what perf (linux-perf) sees the data threads do while a stream runs.

use super::cpu::Clocks;
use super::stream::{Load, Stream};
use super::switch::{PATHS, Path, switch};
use super::{SMALL, count};
use crate::bench::Form;
use crate::bench::detect::bed::Bed;
use crate::bench::record::{Findings, PartRecord, measure_once};
use crate::cluster;
use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Samples a second and CPU. No multiple of the kernel's tick or of the heartbeats' pace.
const FREQUENCY: &str = "1997";
/// System calls that a data thread makes for frames.
const CALLS: [&str; 6] = ["read", "writev", "sendmmsg", "recvmmsg", "sendto", "ppoll"];
/// Whatever else it makes.
const OTHERS: &str = "others";
/// Functions that are named.
const TOP: usize = 12;
/// Work that is looked for in stacks; one may be part of another.
const MARKS: &[(&str, &[&str])] = &[
    ("AF_XDP transmit", &["__xsk_generic_xmit"]),
    ("UDP transmit", &["udp_sendmsg", "udpv6_sendmsg"]),
    ("UDP receive", &["udp_recvmsg", "udpv6_recvmsg"]),
    ("veth receive with XDP", &["veth_poll"]),
    ("backlog receive", &["process_backlog"]),
    ("bridge", &["br_handle_frame"]),
    ("generic XDP", &["do_xdp_generic", "netif_receive_generic_xdp"]),
    ("into an AF_XDP socket", &["__xsk_map_redirect", "xsk_generic_rcv", "__xsk_rcv"]),
    ("into a UDP socket", &["udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb"]),
    ("netft0 read", &["tun_do_read"]),
    ("netft0 write", &["tun_get_user"]),
    ("waking a thread", &["try_to_wake_up"]),
    ("going to sleep", &["schedule"]),
    ("SipHash", &["netft_common::siphash::Stream::write"]),
];
/// In the stack of everything that runs in a softirq.
const SOFTIRQ: [&str; 2] = ["handle_softirqs", "__do_softirq"];

/// Samples of one data thread.
#[derive(Default)]
struct Seen {
    samples: u64,
    softirq: u64,
    /// By system call; "" = outside the kernel.
    calls: BTreeMap<String, u64>,
    /// By [`MARKS`].
    marks: BTreeMap<String, u64>,
    /// By the innermost function.
    functions: BTreeMap<String, u64>,
}

/// The part.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    measure_once("profile", "where the data threads' time goes", |_| {
        let span = Duration::from_secs(if form == Form::Full { 4 } else { 1 });
        let mut findings = Findings::default();
        need_perf()?;
        let bed = Bed::make(2, 1, &[])?;
        let stream = Stream::open(&bed.lab)?;
        let clocks = Clocks::new(&bed.lab, stream.receiver_tid)?;
        let mut rows = Vec::new();
        for path in PATHS {
            switch(&bed.lab, path)?;
            for size in [SMALL, stream.longest] {
                rows.push(profile(&bed.lab, &stream, &clocks, path, size, span, &mut findings.lines)?);
            }
        }
        findings.results = json!({ "samples_per_second_and_cpu": FREQUENCY.parse::<u32>()?, "rows": rows });
        Ok(findings)
    })
}

fn profile(
    lab: &Lab,
    stream: &Stream,
    clocks: &Clocks,
    path: Path,
    size: usize,
    span: Duration,
    lines: &mut Vec<String>,
) -> Result<Value> {
    let threads = clocks.data_threads()?;
    // Sampling and counting disturb each other, so each has its own run. perf ends before the stream does.
    let pause = format!("{:.1}", span.as_secs_f64() / 2.0);
    let sampled = during(stream, size, span, || {
        perf(&["record", "-q", "-a", "-g", "-F", FREQUENCY, "-o", "-", "--", "sleep", &pause])
    })?;
    let text = script(&sampled.stdout)?;
    let seen: Vec<Seen> = threads.iter().map(|threads| Seen::in_script(&text, threads)).collect();

    let counted = during(stream, size, span, || {
        let counted = ["n1", "n2"].into_iter().zip(&threads);
        counted
            .map(|(node, threads)| calls_and_frames(lab, node, threads, span / 4))
            .collect::<Result<Vec<_>>>()
    })?;

    let mut row = serde_json::Map::new();
    row.insert("path".into(), json!(path.name));
    row.insert("bytes".into(), json!(size));
    lines.push(format!("{}, {size} bytes", path.name));
    for (side, node) in ["n1", "n2"].into_iter().enumerate() {
        let seen = &seen[side];
        let (calls, frames) = &counted[side];
        let per_frame = calls.iter().map(|(call, rate)| (*call, rounded(rate / frames.max(1.0))));
        let per_frame: BTreeMap<&str, f64> = per_frame.filter(|(_, calls)| *calls > 0.0).collect();
        lines.push(format!("  {node}: {}", seen.line()));
        lines.push(format!("      calls per frame: {}", listed(per_frame.iter().map(|(k, v)| (*k, *v)), "")));
        lines.push(format!("      in and below: {}", listed(seen.marked().into_iter(), " %")));
        lines.push(format!("      functions: {}", listed(seen.top().into_iter(), " %")));
        row.insert(format!("{node}_data_thread"), seen.json(&per_frame));
    }
    Ok(row.into())
}

/// Runs `work` while a stream without losses runs.
fn during<T>(stream: &Stream, size: usize, span: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::thread::scope(|scope| {
        let streaming = scope.spawn(|| stream.run(Load::Window, size, span, |_| Ok(())));
        // It takes a moment until everything is under way.
        std::thread::sleep(span / 8);
        let output = work();
        streaming.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the stream panicked")))?;
        output
    })
}

/// Fails unless it is installed.
pub(in crate::bench) fn need_perf() -> Result<()> {
    let found = Command::new("perf").arg("--version").stdout(Stdio::null()).status().is_ok();
    ensure!(found, "there is no perf here, which counts the kernel's calls: install it (package linux-perf)");
    Ok(())
}

/// System calls of threads a second, by call, and frames that their node sent or received a second.
pub(in crate::bench) fn calls_and_frames(
    lab: &Lab,
    node: &str,
    threads: &[u32],
    span: Duration,
) -> Result<(BTreeMap<&'static str, f64>, f64)> {
    const ALL: &str = "raw_syscalls:sys_enter";
    let events = CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}"));
    let events: Vec<String> = std::iter::once(ALL.to_owned()).chain(events).collect();
    let threads = threads.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let pause = format!("{:.2}", span.as_secs_f64());
    let moved = || {
        let data = cluster::status(lab, node)?.data;
        anyhow::Ok((Instant::now(), data.frames_sent + data.frames_received))
    };
    let (began, before) = moved()?;
    // perf counts while its child sleeps, but takes some time to start: hence rates and not counts.
    let counted = perf(&["stat", "-x", ",", "-e", &events.join(","), "-t", &threads, "--", "sleep", &pause])?;
    let (ended, after) = moved()?;
    let text = String::from_utf8_lossy(&counted.stderr);
    let number = |event: &str| count_of(&text, event).map(|number| count(number) / span.as_secs_f64());
    let all = number(ALL).with_context(|| format!("perf counted no system calls: {text}"))?;
    let mut calls = BTreeMap::new();
    for (call, event) in CALLS.into_iter().zip(&events[1..]) {
        calls.extend(number(event).filter(|rate| *rate > 0.0).map(|rate| (call, rate.round())));
    }
    let named: f64 = calls.values().sum();
    calls.insert(OTHERS, (all - named).round().max(0.0));
    ensure!(after > before, "no frame moved at {node}");
    Ok((calls, count(after - before) / (ended - began).as_secs_f64()))
}

/// Runs it.
pub(in crate::bench) fn perf(arguments: &[&str]) -> Result<Output> {
    let output =
        Command::new("perf").args(arguments).stdin(Stdio::null()).output().context("running perf")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`perf {}` failed: {}", arguments.join(" "), complaint.trim());
    Ok(output)
}

/// Samples as text: "TID" lines, each with its stack below, innermost first, ended by an empty line.
fn script(data: &[u8]) -> Result<String> {
    let path = crate::test::workspace_root().join("target/frames.perf");
    std::fs::write(&path, data).with_context(|| format!("writing {}", path.display()))?;
    let output = perf(&["script", "-i", &path.display().to_string(), "-F", "tid,ip,sym"])?;
    let _ = std::fs::remove_file(&path);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The count of an event, of what `perf stat -x,` says: count, unit, event, …
fn count_of(text: &str, wanted: &str) -> Option<u64> {
    let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    rows.find_map(|row| match row[..] {
        [number, _, event, ..] if event == wanted => number.trim().parse().ok(),
        _ => None,
    })
}

/// The system call that a kernel function is the entry of. The compiler leaves `writev` only its second one.
fn call_of(symbol: &str) -> Option<&str> {
    let by_prefix = ["__x64_sys_", "ksys_"].iter().find_map(|prefix| symbol.strip_prefix(prefix));
    by_prefix.or_else(|| (symbol == "do_writev").then_some("writev"))
}

impl Seen {
    fn in_script(text: &str, threads: &[u32]) -> Self {
        let mut seen = Self::default();
        for sample in text.split("\n\n") {
            let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
            let tid = lines.next().and_then(|line| line.trim().parse::<u32>().ok());
            if tid.is_some_and(|tid| threads.contains(&tid)) {
                let symbols = lines.map(|line| line.trim().split_once(' ').map_or("?", |(_, symbol)| symbol));
                seen.add(&symbols.collect::<Vec<_>>());
            }
        }
        seen
    }

    fn add(&mut self, stack: &[&str]) {
        self.samples += 1;
        self.softirq += u64::from(stack.iter().any(|symbol| SOFTIRQ.contains(symbol)));
        let call = stack.iter().find_map(|symbol| call_of(symbol));
        *self.calls.entry(call.unwrap_or_default().to_string()).or_default() += 1;
        for (mark, functions) in MARKS {
            if stack.iter().any(|symbol| functions.contains(symbol)) {
                *self.marks.entry((*mark).to_string()).or_default() += 1;
            }
        }
        let innermost = stack.first().map_or("?", |symbol| *symbol);
        *self.functions.entry(innermost.to_string()).or_default() += 1;
    }

    fn percent(&self, samples: u64) -> f64 {
        rounded(100.0 * count(samples) / count(self.samples.max(1)))
    }

    fn shares<'a>(&'a self, counts: &'a BTreeMap<String, u64>) -> Vec<(&'a str, f64)> {
        let mut shares: Vec<_> =
            counts.iter().map(|(name, samples)| (name.as_str(), self.percent(*samples))).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares
    }

    fn top(&self) -> Vec<(&str, f64)> {
        self.shares(&self.functions).into_iter().take(TOP).collect()
    }

    fn marked(&self) -> Vec<(&str, f64)> {
        self.shares(&self.marks)
    }

    fn by_call(&self) -> Vec<(&str, f64)> {
        let named = self.shares(&self.calls).into_iter();
        named.map(|(call, share)| (if call.is_empty() { "no call" } else { call }, share)).collect()
    }

    fn line(&self) -> String {
        let Self { samples, softirq, .. } = self;
        let calls = listed(self.by_call().into_iter(), " %");
        format!("{samples} samples, {:.0} % in softirqs; by call: {calls}", self.percent(*softirq))
    }

    fn json(&self, per_frame: &BTreeMap<&str, f64>) -> Value {
        json!({
            "samples": self.samples,
            "softirq_percent": self.percent(self.softirq),
            "percent_by_call": self.by_call().into_iter().collect::<BTreeMap<_, _>>(),
            "percent_in_and_below": self.marked().into_iter().collect::<BTreeMap<_, _>>(),
            "percent_by_function": self.top().into_iter().collect::<BTreeMap<_, _>>(),
            "calls_per_frame": per_frame,
        })
    }
}

fn listed<'a>(shares: impl Iterator<Item = (&'a str, f64)>, unit: &str) -> String {
    shares.fold(String::new(), |mut text, (name, share)| {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{name} {share}{unit}");
        text
    })
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_tells_its_call_and_its_softirq() {
        let text = "  17 \n\tffff1 veth_xmit\n\tffff2 handle_softirqs\n\tffff3 do_writev\n\n\
                      17 \n\t55aa netft_core::data::DataPlane::seal\n\n  18 \n\tffff1 memcpy\n";
        let seen = Seen::in_script(text, &[17]);
        assert_eq!((seen.samples, seen.softirq), (2, 1));
        assert_eq!(seen.by_call(), [("no call", 50.0), ("writev", 50.0)]);
        assert_eq!(seen.top(), [("netft_core::data::DataPlane::seal", 50.0), ("veth_xmit", 50.0)]);
    }

    #[test]
    fn counts_are_found_by_event() {
        let text = "12,,syscalls:sys_enter_read,100,100.00,,\n<not counted>,,syscalls:sys_enter_write,0,,,\n";
        assert_eq!(count_of(text, "syscalls:sys_enter_read"), Some(12));
        assert_eq!(count_of(text, "syscalls:sys_enter_write"), None);
        assert_eq!(count_of(text, "syscalls:sys_enter_sendto"), None);
    }
}

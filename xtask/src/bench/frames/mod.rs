//! `bench frames`: one-way frames a second over `netft0` from n1 to n2, what each costs in CPU time, and where those
//! that don't arrive are lost, for every data path. Two daemons in a lab carry on with their heartbeats meanwhile.
//!
//! The paths take turns in rounds, switched while the cluster runs. On two cores everything shares them: sender,
//! receiver, both daemons and the wire between, which is softirq work on top of whoever sends.

pub(super) mod cpu;
pub(super) mod profile;
mod stream;
pub(super) mod switch;
mod tally;

use super::detect::bed::Bed;
use super::record::{Bound, Findings, PartRecord, measure};
use super::stats::Spread;
use super::{Form, Part};
use anyhow::Result;
use cpu::{Clocks, CpuTimes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use stream::{Load, Sent, Stream};
use switch::{PATHS, Path, switch};
use tally::Tally;

const SENDER: &str = "n1";
const RECEIVER: &str = "n2";
/// Smallest Ethernet frame, with its header.
const SMALL: usize = 64;

/// Parts of `bench frames`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "rate", run: rate, short: true },
    Part { name: "profile", run: profile::run, short: false },
];

/// One path under one load with frames of one size, over all rounds.
struct Row {
    path: Path,
    load: Load,
    size: usize,
    turns: Vec<Turn>,
}

/// What one turn brought.
struct Turn {
    sent: Sent,
    cpu: CpuTimes,
    tally: Tally,
}

fn rate(form: Form) -> Result<PartRecord> {
    measure("rate", "frames a second from n1's netft0 to n2's, and CPU time for each", |_| {
        let (rounds, span) = match form {
            Form::Full => (5, Duration::from_secs(2)),
            Form::Short => (1, Duration::from_millis(400)),
        };
        let bed = Bed::make(2, 1, &[])?;
        let stream = Stream::open(&bed.lab)?;
        let clocks = Clocks::new(&bed.lab, stream.receiver_tid)?;
        let mut rows: Vec<Row> = Vec::new();
        for path in PATHS {
            for load in [Load::Window, Load::Flood] {
                rows.extend([SMALL, stream.longest].map(|size| Row { path, load, size, turns: Vec::new() }));
            }
        }
        for _ in 0..rounds {
            for path in PATHS {
                switch(&bed.lab, path)?;
                for row in rows.iter_mut().filter(|row| row.path == path) {
                    row.turns.push(turn(&bed, &stream, &clocks, row.load, row.size, span)?);
                }
            }
        }
        Ok(findings(&rows))
    })
}

fn turn(
    bed: &Bed,
    stream: &Stream,
    clocks: &Clocks,
    load: Load,
    size: usize,
    span: Duration,
) -> Result<Turn> {
    let before = Tally::take(&bed.lab, stream.port)?;
    // The sending thread is new in every turn, so its own time begins at 0.
    let began = clocks.read(0)?;
    let (sent, cpu) = stream.run(load, size, span, |sender| clocks.read(sender))?;
    let missing = sent.sent.saturating_sub(sent.arrived);
    let after = Tally::settled(&bed.lab, stream.port, &before, missing)?;
    Ok(Turn { sent, cpu: cpu.since(&began), tally: after.since(&before) })
}

impl Turn {
    fn per_second(&self) -> f64 {
        count(self.sent.arrived) / self.sent.took.as_secs_f64()
    }

    fn cost(&self) -> CpuTimes {
        self.cpu.per(count(self.sent.arrived.max(1)))
    }

    fn lost_percent(&self) -> f64 {
        100.0 * count(self.sent.sent.saturating_sub(self.sent.arrived)) / count(self.sent.sent.max(1))
    }

    /// Neither arrived nor counted.
    fn unaccounted(&self) -> i64 {
        self.sent.sent.cast_signed() - (self.sent.arrived + self.tally.lost()).cast_signed()
    }
}

impl Row {
    fn spread(&self, of: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.turns.iter().map(of))
    }

    fn sum(&self, of: impl Fn(&Turn) -> u64) -> u64 {
        self.turns.iter().map(of).sum()
    }

    fn losses(&self) -> BTreeMap<&str, u64> {
        let mut losses = BTreeMap::new();
        for (place, lost) in self.turns.iter().flat_map(|turn| &turn.tally.losses) {
            *losses.entry(place.as_str()).or_default() += lost;
        }
        losses
    }

    fn name(&self) -> String {
        format!("{}, {} bytes, {}", self.path.name, self.size, self.load.name())
    }

    fn line(&self) -> String {
        let Spread { median, min, max } = self.spread(Turn::per_second);
        let cost = |of: fn(&CpuTimes) -> f64| self.spread(|turn| of(&turn.cost())).median;
        format!(
            "{:<12} {:>5} {:<6} {:>8.0} {:>8.0} {:>8.0} {:>6.1}% {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
            self.path.name,
            self.size,
            self.load.name(),
            median,
            min,
            max,
            self.spread(Turn::lost_percent).median,
            cost(|cpu| cpu.data[0]),
            cost(|cpu| cpu.data[1]),
            cost(|cpu| cpu.ends[0]),
            cost(|cpu| cpu.ends[1]),
            cost(|cpu| cpu.busy),
            cost(|cpu| cpu.softirq),
        )
    }

    fn json(&self) -> Value {
        let cost = |of: fn(&CpuTimes) -> f64| self.spread(|turn| of(&turn.cost()));
        let bits = |turn: &Turn| turn.per_second() * count(self.size as u64) * 8.0 / 1e6;
        let [taken, taken_xdp, given, given_xdp] =
            [0, 1, 2, 3].map(|index| self.sum(|turn| turn.tally.carried[index]));
        json!({
            "path": self.path.name,
            "bytes": self.size,
            "load": self.load.name(),
            "rounds": self.turns.len(),
            "frames_per_second": self.spread(Turn::per_second),
            "megabits_per_second": self.spread(bits),
            "sent": self.sum(|turn| turn.sent.sent),
            "arrived": self.sum(|turn| turn.sent.arrived),
            "sends_refused": self.sum(|turn| turn.sent.refused),
            "lost_percent": self.spread(Turn::lost_percent),
            "lost_at": self.losses(),
            "unaccounted": self.turns.iter().map(Turn::unaccounted).sum::<i64>(),
            "taken_from_netft0": taken,
            "taken_and_sent_by_af_xdp": taken_xdp,
            "put_into_netft0": given,
            "put_and_received_by_af_xdp": given_xdp,
            "cpu_ns_per_frame": {
                "n1_data_thread": cost(|cpu| cpu.data[0]),
                "n1_data_thread_user": cost(|cpu| cpu.data_user[0]),
                "n2_data_thread": cost(|cpu| cpu.data[1]),
                "n2_data_thread_user": cost(|cpu| cpu.data_user[1]),
                "daemons_other_threads": cost(|cpu| cpu.others),
                "sender": cost(|cpu| cpu.ends[0]),
                "receiver": cost(|cpu| cpu.ends[1]),
                "machine_busy": cost(|cpu| cpu.busy),
                "machine_softirq": cost(|cpu| cpu.softirq),
            },
        })
    }
}

fn findings(rows: &[Row]) -> Findings {
    let mut findings = Findings::default();
    findings.lines.push(format!(
        "{:<26}{:>8} {:>8} {:>8} {:>7} {:>47}",
        "", "frames/s", "min", "max", "lost", "CPU ns per frame that arrived"
    ));
    findings.lines.push(format!(
        "{:<12} {:>5} {:<6} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "path", "bytes", "load", "median", "", "", "", "n1", "n2", "sender", "recvr", "busy", "softirq"
    ));
    for row in rows {
        findings.lines.push(row.line());
    }
    let (mut silent, mut missing) = (Vec::new(), Vec::new());
    for row in rows {
        for (place, lost) in row.losses() {
            findings.lines.push(format!("{}: {lost} lost at {place}", row.name()));
        }
        for turn in &row.turns {
            if turn.sent.arrived == 0 {
                silent.push(row.name());
            }
            match turn.unaccounted() {
                0 => {}
                lost @ 1.. => missing.push((lost, row.name())),
                // Heartbeats and hellos meet the same full queues.
                more => findings.lines.push(format!("{}: {} more losses than frames", row.name(), -more)),
            }
        }
    }
    findings
        .bounds
        .push(Bound::none("turns in which nothing arrived", silent.len()).explained(silent.join("; ")));
    let sum = missing.iter().map(|(lost, _)| lost.unsigned_abs()).sum();
    let where_lost: Vec<_> = missing.iter().map(|(lost, row)| format!("{row}: {lost}")).collect();
    findings.bounds.push(
        Bound::at_most("frames neither arrived nor counted as lost", count(sum), 0.0)
            .explained(where_lost.join("; ")),
    );
    findings.results = json!({ "rows": rows.iter().map(Row::json).collect::<Vec<_>>() });
    findings
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

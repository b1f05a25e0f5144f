//! `bench traffic`: what TCP moves over `netft0` and what that costs, and how long a request takes, on every data path and
//! at every level of security, beside what else could carry it: the bare cable, kernel VXLAN, a tunnel in userspace.
//!
//! One lab has them all, and they take turns in rounds. On two cores everything shares them: both ends of the streams,
//! both daemons, and the wire between, which is softirq work on top of whoever sends.

mod carrier;
mod latency;
mod stream;
mod tunnel;

use super::record::{Bound, Findings, PartRecord, measure};
use super::stats::Spread;
use super::{Form, Part};
use anyhow::Result;
use carrier::{Carrier, Carriers, LEVELS, NetftPath};
use netft_core::types::Level;
use serde_json::{Value, json};
use std::time::Duration;
use stream::{Direction, Moved};

/// Parts of `bench traffic`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "throughput", run: throughput, short: true },
    Part { name: "latency", run: latency, short: true },
];

/// Of what VXLAN moves, netft by sockets moves so much in clear.
const OF_VXLAN: f64 = 0.6;
/// Of what it moves in clear, it moves so much signed or encrypted.
const OF_CLEAR: f64 = 0.5;
/// And by AF_XDP so many times what a plain tunnel moves.
const TIMES_TUNNEL: f64 = 1.5;

/// One carrier with so many streams in one direction, over all rounds.
struct Row {
    carrier: Carrier,
    streams: usize,
    direction: Direction,
    turns: Vec<Moved>,
}

fn throughput(form: Form) -> Result<PartRecord> {
    measure("throughput", "TCP in Gbit/s, and CPU seconds of the whole machine for each GB", |_| {
        let (rounds, span, directions) = match form {
            Form::Full => (5, Duration::from_secs(2), &[Direction::Out, Direction::Back][..]),
            Form::Short => (1, Duration::from_millis(500), &[Direction::Out][..]),
        };
        let carriers = Carriers::make()?;
        let mut rows = Vec::new();
        for carrier in carrier::all() {
            for streams in [1, 8] {
                let row = |direction: &Direction| Row {
                    carrier,
                    streams,
                    direction: *direction,
                    turns: Vec::new(),
                };
                rows.extend(directions.iter().map(row));
            }
        }
        for _ in 0..rounds {
            for carrier in carrier::all() {
                let ends = carriers.ready(carrier)?;
                for row in rows.iter_mut().filter(|row| row.carrier == carrier) {
                    row.turns.push(stream::run(&carriers, ends, row.streams, row.direction, span)?);
                }
            }
        }
        Ok(findings(&rows, form))
    })
}

impl Row {
    fn gbits(&self) -> Spread {
        Spread::of(self.turns.iter().map(Moved::gbits))
    }

    fn cpu(&self) -> Spread {
        Spread::of(self.turns.iter().map(Moved::cpu_seconds_per_gb))
    }

    fn line(&self) -> String {
        let (gbits, cpu) = (self.gbits(), self.cpu());
        format!(
            "{:<28} {:>2} {:<4} {:>7.2} ({:>5.2} to {:>5.2}) {:>6.2} ({:>5.2} to {:>5.2})",
            self.carrier.name(),
            self.streams,
            self.direction.name(),
            gbits.median,
            gbits.min,
            gbits.max,
            cpu.median,
            cpu.min,
            cpu.max
        )
    }

    fn json(&self) -> Value {
        let turns: Vec<_> = self.turns.iter().map(|turn| [turn.gbits(), turn.cpu_seconds_per_gb()]).collect();
        json!({
            "carrier": self.carrier.name(),
            "streams": self.streams,
            "direction": self.direction.name(),
            "gbit_per_s": self.gbits(),
            "cpu_s_per_gb": self.cpu(),
            "turns_gbit_per_s_and_cpu_s_per_gb": turns,
        })
    }
}

fn findings(rows: &[Row], form: Form) -> Findings {
    let mut lines = vec![format!(
        "{:<28} {:>2} {:<4} {:>24} {:>22}",
        "carrier", "", "way", "Gbit/s (least to most)", "CPU s/GB"
    )];
    lines.extend(rows.iter().map(Row::line));
    let mut bounds = Vec::new();
    for streams in [1, 8] {
        // Both directions alike: of all turns.
        let of = |carrier: Carrier| {
            let rows = rows.iter().filter(|row| row.carrier == carrier && row.streams == streams);
            Spread::of(rows.flat_map(|row| row.turns.iter().map(Moved::gbits))).median
        };
        let netft = |path, level| Carrier::Netft(path, level);
        let mut at_least = |share: f64, less: Carrier, more: Carrier| {
            let what = format!("{} / {}, {streams} streams", more.name(), less.name());
            bounds.push(Bound::at_most(
                &what,
                of(more) / of(less).max(f64::EPSILON),
                form.limit(1.0 / share),
            ));
        };
        for level in LEVELS {
            at_least(TIMES_TUNNEL, netft(NetftPath::Xdp, level), Carrier::Tunnel);
            if level == Level::Clear {
                at_least(OF_VXLAN, netft(NetftPath::Socket, level), Carrier::VxlanBesideXdp);
            } else {
                at_least(OF_CLEAR, netft(NetftPath::Socket, level), netft(NetftPath::Socket, Level::Clear));
                at_least(OF_CLEAR, netft(NetftPath::Xdp, level), netft(NetftPath::Xdp, Level::Clear));
            }
        }
    }
    let results = json!({ "rows": rows.iter().map(Row::json).collect::<Vec<_>>() });
    Findings { results, bounds, lines }
}

fn latency(form: Form) -> Result<PartRecord> {
    measure("latency", "round trip of a UDP datagram of 64 bytes and its answer, in microseconds", |_| {
        let (rounds, requests) = match form {
            Form::Full => (5, 2000),
            Form::Short => (1, 300),
        };
        let carriers = Carriers::make()?;
        let mut rows: Vec<_> = carrier::all().into_iter().map(|carrier| (carrier, Vec::new())).collect();
        for _ in 0..rounds {
            for (carrier, samples) in &mut rows {
                let ends = carriers.ready(*carrier)?;
                samples.extend(latency::run(&carriers, ends, requests)?);
            }
        }
        Ok(latency::findings(&rows))
    })
}

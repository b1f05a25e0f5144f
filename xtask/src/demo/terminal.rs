//! What the demo prints: plain lines; colour only where a terminal shows it.

use super::stages::Report;
use crate::cluster;
use crate::lab::Lab;
use anyhow::Result;
use std::io::IsTerminal;
use std::time::Duration;

/// Where it prints to.
pub struct Terminal {
    colour: bool,
}

const BOLD: &str = "1";
const SOFT: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

impl Terminal {
    /// Standard output; colour if it is a terminal and NO_COLOR isn't set.
    pub fn new() -> Self {
        Self { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// The headline.
    pub fn title(&self, title: &str, what: &str) {
        println!("\n{}  {what}", self.paint(BOLD, title));
    }

    /// A line on the side.
    pub fn note(&self, text: &str) {
        println!("  {}", self.paint(SOFT, text));
    }

    /// The cluster is there: who it is.
    pub fn formed(&self, lab: &Lab, took: Duration) -> Result<()> {
        let mark = self.paint(GREEN, "✓");
        let count = cluster::routes(lab, "n1")?.len() * cluster::nodes(lab).len();
        println!(
            "\n{mark} {}  {} routes up after {:.0} ms",
            self.paint(BOLD, "cluster formed"),
            count,
            took.as_secs_f64() * 1e3
        );
        for node in cluster::nodes(lab) {
            let adapter = cluster::adapter(lab, &node)?;
            let status = cluster::status(lab, &node)?;
            let modes: Vec<String> = status
                .interfaces
                .iter()
                .map(|interface| {
                    format!("{} {}", interface.name, format!("{:?}", interface.xdp).to_lowercase())
                })
                .collect();
            self.note(&format!(
                "{node}  netft0 {}  mtu {}  XDP: {}",
                adapter.ipv4,
                adapter.mtu,
                modes.join(", ")
            ));
        }
        Ok(())
    }

    /// A stage was played.
    pub fn stage(&self, report: &Report) {
        let mark = if report.failure.is_some() { self.paint(RED, "✗") } else { self.paint(GREEN, "✓") };
        let done = report.played.as_ref().map_or("", |played| played.done.as_str());
        println!("\n{mark} {}  {done}", self.paint(BOLD, report.name));
        if let Some(failure) = &report.failure {
            println!("    {}", self.paint(RED, failure));
        }
        let Some(played) = &report.played else { return };
        if let (Some((_, what)), Some(took)) = (played.seen, played.seen_after_ns()) {
            println!("    {what} after {}", self.paint(CYAN, &millis(took)));
        }
        println!(
            "    UDP: longest gap {}, {} of {} lost; TCP: longest gap {}",
            self.paint(CYAN, &millis(report.udp.longest_outage_ns)),
            report.udp.lost,
            report.udp.sent,
            self.paint(CYAN, &millis(report.tcp.longest_outage_ns))
        );
        self.note(&format!("  {}", played.remark));
    }

    /// The closing table.
    pub fn table(&self, reports: &[Report]) {
        let header = ["done", "seen", "after", "UDP outage", "TCP outage", "UDP lost", ""];
        let mut rows = vec![header.map(str::to_string)];
        for report in reports {
            let played = report.played.as_ref();
            let what = played.and_then(|played| played.seen).map_or("-", |(_, what)| what);
            let after = played.and_then(|played| played.seen_after_ns()).map_or("-".to_string(), millis);
            rows.push([
                report.name.to_string(),
                what.to_string(),
                after,
                millis(report.udp.longest_outage_ns),
                millis(report.tcp.longest_outage_ns),
                format!("{} of {}", report.udp.lost, report.udp.sent),
                if report.failure.is_some() { "FAILED" } else { "ok" }.to_string(),
            ]);
        }
        let widths: Vec<usize> = (0..header.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        println!();
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let line = cells.join("  ");
            println!(
                "{}",
                if number == 0 { self.paint(BOLD, line.trim_end()) } else { line.trim_end().to_string() }
            );
        }
        println!(
            "{}",
            self.paint(
                SOFT,
                "outage: longest time without an arrival; the flows send one record per millisecond"
            )
        );
    }
}

/// Milliseconds with two digits.
pub fn millis(nanos: u64) -> String {
    format!("{:.2} ms", Duration::from_nanos(nanos).as_secs_f64() * 1e3)
}

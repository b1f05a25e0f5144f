//! Sends frames as fast as one core can.

use super::arsenal::Ammunition;
use crate::bench::reply::pin;
use crate::hostile::Port;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Frames between two looks at the clock.
const BURST: usize = 255;

/// What was sent.
pub(super) struct Shots {
    pub sent: u64,
    /// The wire's queue was full: not sent, and counted by the wire as dropped.
    pub refused: u64,
    pub by_kind: BTreeMap<&'static str, u64>,
    took: Duration,
}

impl Shots {
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let sent = self.sent as f64;
        sent / self.took.as_secs_f64()
    }
}

/// Fires all kinds in turn for `span`, from one thread on `cpu`.
pub(super) fn fire(port: &Port, ammunition: &[Ammunition], cpu: usize, span: Duration) -> Result<Shots> {
    std::thread::scope(|scope| {
        let shooter = scope.spawn(|| {
            pin(cpu)?;
            let mut counts = vec![0u64; ammunition.len()];
            let began = Instant::now();
            let (mut number, mut refused) = (0, 0);
            while began.elapsed() < span {
                for _ in 0..BURST {
                    let kind = number % ammunition.len();
                    let frames = &ammunition[kind].frames;
                    match port.send(&frames[number / ammunition.len() % frames.len()])? {
                        true => counts[kind] += 1,
                        false => refused += 1,
                    }
                    number += 1;
                }
            }
            let took = began.elapsed();
            let by_kind = ammunition.iter().map(|kind| kind.kind).zip(counts.iter().copied()).collect();
            Ok(Shots { sent: counts.iter().sum(), refused, by_kind, took })
        });
        shooter.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the attacker panicked")))
    })
}

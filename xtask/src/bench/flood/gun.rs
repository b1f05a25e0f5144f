//! Sends frames from one core, at a rate or as fast as it can.

use super::arsenal::Ammunition;
use crate::bench::reply::pin;
use crate::hostile::Port;
use crate::traffic::be_prompt;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Frames between two looks at the clock: an eighth of the queue of a veth (`VETH_RING_SIZE`, drivers/net/veth.c).
const BURST: usize = 32;

/// What was sent.
pub(in crate::bench) struct Shots {
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

/// Whose turn it is on the attacker's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Turn {
    /// Everybody's.
    Fair,
    /// The attacker's, before everything ordinary: a real one has a machine of its own.
    First,
}

/// Behind everything of netft's.
const PRIORITY: u8 = 1;

/// Fires all kinds in turn for `span`, from one thread on `cpu`, at most `rate` frames a second.
pub(in crate::bench) fn fire(
    port: &Port,
    ammunition: &[Ammunition],
    cpu: usize,
    span: Duration,
    rate: f64,
    turn: Turn,
) -> Result<Shots> {
    std::thread::scope(|scope| {
        let shooter = scope.spawn(|| {
            pin(cpu)?;
            if turn == Turn::First {
                be_prompt(PRIORITY)?;
            }
            let mut counts = vec![0u64; ammunition.len()];
            let began = Instant::now();
            let (mut number, mut refused) = (0, 0);
            #[expect(clippy::cast_precision_loss, reason = "a small constant")]
            let pause = Duration::try_from_secs_f64(BURST as f64 / rate)?;
            let mut due = began;
            while began.elapsed() < span {
                due += pause;
                for _ in 0..BURST {
                    let kind = number % ammunition.len();
                    let frames = &ammunition[kind].frames;
                    match port.send(&frames[number / ammunition.len() % frames.len()])? {
                        true => counts[kind] += 1,
                        false => refused += 1,
                    }
                    number += 1;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let took = began.elapsed();
            let by_kind = ammunition.iter().map(|kind| kind.kind).zip(counts.iter().copied()).collect();
            Ok(Shots { sent: counts.iter().sum(), refused, by_kind, took })
        });
        shooter.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the attacker panicked")))
    })
}

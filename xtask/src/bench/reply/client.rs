//! The measuring side: sends one datagram, waits for its answer, notes how long it took.

use super::responder::Responder;
use super::wire::Wire;
use super::{Class, Wait};
use crate::lab::Lab;
use crate::traffic::{be_prompt, boottime_ns};
use anyhow::{Context, Result, ensure};
use bytemuck::{bytes_of, pod_read_unaligned};
use netft_common::heartbeat;
use netft_common::map::{EngineState, NodeConfig, SlotConfig};
use netft_common::wire::{Heartbeat, PORT, kind};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// What one turn brought.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Of every answered datagram.
    pub round_trips_ns: Vec<u64>,
    /// Not answered.
    pub lost: u64,
}

/// A socket in n1 on netft's port, and what is needed to make heartbeats.
pub(super) struct Client {
    socket: UdpSocket,
    wire: Wire,
    node: NodeConfig,
    slot: SlotConfig,
    engine: EngineState,
    sequence: u64,
}

impl Client {
    /// Opens it in n1.
    pub fn open(lab: &Lab, wire: Wire, responder: &Responder) -> Result<Self> {
        let socket =
            lab.enter("n1", || Ok(UdpSocket::bind((wire.address(1), PORT))?)).context("binding in n1")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let Responder { client_node: node, client_slot: slot, .. } = responder;
        let engine = EngineState {
            tick_ns: 0.into(),
            flags: 0.into(),
            dead_interfaces: 0.into(),
            persistent: Default::default(),
        };
        Ok(Self { socket, wire, node: *node, slot: *slot, engine, sequence: 0 })
    }

    /// `count` heartbeats, answered by XDP with leg 2.
    pub fn heartbeats(&mut self, wait: Wait, count: usize) -> Result<Turn> {
        self.turn(wait, PORT, count, |sent, answer| {
            answer.header.kind == kind::REPLY && answer.header.sequence == sent.header.sequence
        })
    }

    /// The same bytes, sent back by an echo on `port`.
    pub fn echoes(&mut self, wait: Wait, port: u16, count: usize) -> Result<Turn> {
        self.turn(wait, port, count, |sent, answer| sent == answer)
    }

    fn turn(
        &mut self,
        wait: Wait,
        port: u16,
        count: usize,
        is_answer: fn(&Heartbeat, &Heartbeat) -> bool,
    ) -> Result<Turn> {
        self.socket.set_nonblocking(wait == Wait::Spin)?;
        let mut turn = Turn { round_trips_ns: Vec::with_capacity(count), lost: 0 };
        for _ in 0..count {
            self.sequence += 1;
            let leg =
                heartbeat::request(&self.node, &self.slot, &self.engine, self.sequence, boottime_ns(), None)
                    .context("the slot has no remote end")?;
            let began = Instant::now();
            self.socket.send_to(bytes_of(&leg), (self.wire.address(2), port)).context("sending")?;
            match self.answer(&leg, is_answer)? {
                Some(()) => turn.round_trips_ns.push(u64::try_from(began.elapsed().as_nanos())?),
                None => turn.lost += 1,
            }
        }
        ensure!(!turn.round_trips_ns.is_empty(), "nothing answers on port {port}: {} were sent", turn.lost);
        Ok(turn)
    }

    /// Waits for the answer to `sent`; late answers to earlier ones are passed over.
    fn answer(&self, sent: &Heartbeat, is_answer: fn(&Heartbeat, &Heartbeat) -> bool) -> Result<Option<()>> {
        let mut buffer = [0; size_of::<Heartbeat>()];
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) if length == buffer.len() => {
                    if is_answer(sent, &pod_read_unaligned(&buffer)) {
                        return Ok(Some(()));
                    }
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    if Instant::now() > deadline {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }
}

/// Puts the calling thread where the client belongs.
pub(super) fn settle(class: Class) -> Result<()> {
    pin(0)?;
    if class == Class::Prompt {
        be_prompt(55)?;
    }
    Ok(())
}

/// Binds the calling thread to a CPU, if the machine has that many.
pub(in crate::bench) fn pin(cpu: usize) -> Result<()> {
    if cpu < std::thread::available_parallelism()?.get() {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("binding to CPU {cpu}"))?;
    }
    Ok(())
}

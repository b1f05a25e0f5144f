//! The measuring side: sends one datagram, waits for its answer, notes how long it took.

use super::responder::{ClientProgram, Responder};
use super::variant::{Class, Stack, Variant, Wait};
use super::wire::Wire;
use super::xsk::XskEnd;
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
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
/// Longest turn, of those whose answers take long.
const TURN: Duration = Duration::from_secs(1);

/// One round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it began, boottime.
    pub began_ns: u64,
    /// How long it took; [`PATIENCE`] if no answer came.
    pub took_ns: u64,
}

/// What one turn brought.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Of every datagram.
    pub samples: Vec<Sample>,
    /// Those that were not answered.
    pub lost: u64,
}

/// The sockets in n1 on netft's port, and what is needed to make heartbeats.
pub(super) struct Client {
    socket: UdpSocket,
    bypass: Option<(ClientProgram, XskEnd)>,
    factory: Factory,
    wire: Wire,
}

/// Makes heartbeats that n2 accepts.
struct Factory {
    node: NodeConfig,
    slot: SlotConfig,
    engine: EngineState,
    sequence: u64,
}

impl Client {
    /// Opens them in n1. AF_XDP has a socket on a wire that the lab doesn't need for itself.
    pub fn open(lab: &Lab, wire: Wire, responder: &Responder) -> Result<Self> {
        let socket =
            lab.enter("n1", || Ok(UdpSocket::bind((wire.address(1), PORT))?)).context("binding in n1")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let bypass = match wire {
            Wire::Direct => Some((ClientProgram::attach(lab, wire)?, XskEnd::open(lab, wire, 1)?)),
            Wire::Switched => None,
        };
        let Responder { client_node: node, client_slot: slot, .. } = responder;
        let engine = EngineState {
            tick_ns: 0.into(),
            flags: 0.into(),
            dead_interfaces: 0.into(),
            persistent: Default::default(),
        };
        let factory = Factory { node: *node, slot: *slot, engine, sequence: 0 };
        Ok(Self { socket, bypass, factory, wire })
    }

    /// `count` heartbeats, answered by XDP with leg 2, or sent back by an echo on `port`.
    pub fn turn(&mut self, variant: &Variant, port: u16, count: usize) -> Result<Turn> {
        let Self { socket, bypass, factory, wire } = self;
        let is_echo = variant.echo.is_some();
        let is_answer = if is_echo { same } else { reply };
        match variant.stack {
            Stack::Udp => {
                socket.set_nonblocking(variant.wait == Wait::Spin)?;
                let remote = (wire.address(2), port);
                round_trips(count, || {
                    let leg = factory.next()?;
                    let began = Instant::now();
                    socket.send_to(bytes_of(&leg), remote).context("sending")?;
                    let answered = answer_by_udp(socket, &leg, is_answer)?;
                    Ok(answered.then(|| began.elapsed()))
                })
            }
            Stack::Xsk => {
                let (program, end) = bypass.as_mut().context("n1 has no AF_XDP socket on this wire")?;
                program.during(end, |end| {
                    round_trips(count, || {
                        let mut leg = factory.next()?;
                        if is_echo {
                            // What n2's program gives to the socket there.
                            leg.header.kind = kind::DATA;
                        }
                        let began = Instant::now();
                        end.send(&leg)?;
                        let answered = answer_by_xsk(end, variant.wait, &leg, is_answer)?;
                        Ok(answered.then(|| began.elapsed()))
                    })
                })
            }
        }
    }
}

impl Factory {
    fn next(&mut self) -> Result<Heartbeat> {
        self.sequence += 1;
        let Self { node, slot, engine, sequence } = self;
        heartbeat::request(node, slot, engine, *sequence, boottime_ns(), None)
            .context("the slot has no remote end")
    }
}

/// What XDP answers `sent` with.
fn reply(sent: &Heartbeat, answer: &Heartbeat) -> bool {
    answer.header.kind == kind::REPLY && answer.header.sequence == sent.header.sequence
}

/// What an echo does.
fn same(sent: &Heartbeat, answer: &Heartbeat) -> bool {
    sent == answer
}

fn round_trips(count: usize, mut once: impl FnMut() -> Result<Option<Duration>>) -> Result<Turn> {
    let mut turn = Turn { samples: Vec::with_capacity(count), lost: 0 };
    let end = Instant::now() + TURN;
    while turn.samples.len() < count && Instant::now() < end {
        let began_ns = boottime_ns();
        let took = once()?;
        turn.lost += u64::from(took.is_none());
        let took_ns = u64::try_from(took.unwrap_or(PATIENCE).as_nanos())?;
        turn.samples.push(Sample { began_ns, took_ns });
    }
    ensure!(turn.lost < turn.samples.len() as u64, "nothing answers: {} were sent", turn.lost);
    Ok(turn)
}

/// Waits for the answer to `sent`; late answers to earlier ones are passed over.
fn answer_by_udp(
    socket: &UdpSocket,
    sent: &Heartbeat,
    is_answer: fn(&Heartbeat, &Heartbeat) -> bool,
) -> Result<bool> {
    let mut buffer = [0; size_of::<Heartbeat>()];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) if length == buffer.len() => {
                if is_answer(sent, &pod_read_unaligned(&buffer)) {
                    return Ok(true);
                }
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                if Instant::now() > deadline {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

/// The same.
fn answer_by_xsk(
    end: &mut XskEnd,
    wait: Wait,
    sent: &Heartbeat,
    is_answer: fn(&Heartbeat, &Heartbeat) -> bool,
) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let mut answered = false;
    loop {
        end.receive(wait, PATIENCE, |heartbeat| answered |= is_answer(sent, heartbeat))?;
        if answered || Instant::now() > deadline {
            return Ok(answered);
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

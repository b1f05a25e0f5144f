//! `bench reply`: how long until a heartbeat comes back, when XDP answers it and when an echo in userspace does, to
//! clients and by echoes that use the kernel's UDP sockets and netft's AF_XDP sockets.
//!
//! One lab without daemons: a client in n1, the answering side in n2, a wire between. The client sends the same 88
//! bytes to all; XDP also checks and makes a SipHash tag, an echo does nothing. All variants take turns in rounds, so
//! that whatever the machine does meanwhile hits all of them.

mod client;
mod echo;
mod report;
mod responder;
mod variant;
mod wire;
mod xsk;

use super::record::{Findings, PartRecord, measure};
use super::{Form, Part};
use crate::interrupt;
use crate::lab::stress::{Kind, Stress};
use crate::lab::{LabGuard, Options};
use crate::traffic::Monitor;
use anyhow::Result;
use client::Client;
pub(in crate::bench) use client::pin;
use echo::Echo;
use netft_common::wire::PORT;
use report::{Judged, Measured};
use responder::Responder;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use variant::{Class, Stack, Variant, Wait};
use wire::Wire;
use xsk::XskEnd;

/// The project's bounds: XDP's median and, under load, XDP's maximum over the echo's.
const RATIO_LIMIT: f64 = 0.6;
const MAXIMUM_LIMIT: f64 = 0.2;

/// Parts of `bench reply`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "idle", run: idle, short: true },
    Part { name: "switched", run: switched, short: false },
    Part { name: "cpu", run: cpu, short: false },
    Part { name: "timers", run: timers, short: false },
    Part { name: "fifo", run: fifo, short: false },
];

/// With both ends spinning the ratio is reported, not judged: docs/decisions/0004-which-echo.md.
fn idle(form: Form) -> Result<PartRecord> {
    let judged = Judged { median: client_blocks, maximum: |_| false };
    measure("idle", "nothing else runs; one veth pair to the answering side", |monitor| {
        take_turns(
            form,
            Wire::Direct,
            Class::Ordinary,
            &variant::idle(&[Stack::Udp, Stack::Xsk]),
            judged,
            monitor,
        )
    })
}

/// Through a bridge, whose own time is the same for everybody, so that ratios say less: bounds only against an echo
/// that blocks, as a service does.
fn switched(form: Form) -> Result<PartRecord> {
    let judged = Judged {
        median: |variant| client_blocks(variant) && variant.echo.is_some_and(|echo| echo.wait == Wait::Block),
        maximum: |_| false,
    };
    measure(
        "switched",
        "the same through the lab's switch: a bridge, and a program at each of its ports",
        |monitor| {
            take_turns(form, Wire::Switched, Class::Ordinary, &variant::idle(&[Stack::Udp]), judged, monitor)
        },
    )
}

fn client_blocks(variant: &Variant) -> bool {
    variant.wait == Wait::Block
}

fn cpu(form: Form) -> Result<PartRecord> {
    under("cpu", "two busy threads on every core", Kind::Cpu, form)
}

fn timers(form: Form) -> Result<PartRecord> {
    under("timers", "a storm of timers on every core", Kind::Timers, form)
}

fn fifo(form: Form) -> Result<PartRecord> {
    under("fifo", "a SCHED_FIFO hog on every core, busy for 90 % of the time", Kind::Fifo, form)
}

/// Under load the client runs above the load, so that the answer is measured and not the client. The maximum is judged
/// against the echo that the load can reach: docs/decisions/0004-which-echo.md.
fn under(name: &'static str, what: &'static str, kind: Kind, form: Form) -> Result<PartRecord> {
    let judged = Judged {
        median: client_blocks,
        maximum: |variant| {
            client_blocks(variant) && variant.echo.is_some_and(|echo| echo.class == Class::Ordinary)
        },
    };
    measure(name, what, |monitor| {
        let _stress = Stress::start(kind)?;
        take_turns(form, Wire::Direct, Class::Prompt, &variant::under_load(), judged, monitor)
    })
}

fn take_turns(
    form: Form,
    wire: Wire,
    client_class: Class,
    variants: &[Variant],
    judged: Judged,
    monitor: &Monitor,
) -> Result<Findings> {
    let (budget, burst) = match form {
        Form::Full => (Duration::from_secs(50), 200),
        Form::Short => (Duration::from_secs(4), 50),
    };
    let name = LabGuard::unique_name("reply");
    interrupt::take_down(&name)?;
    let lab = LabGuard::up(&Options::new(&name, 2, 1).daemon_less())?;
    wire.lay(&lab)?;
    let mut responder = Responder::attach(&lab, wire)?;
    let mut client = Client::open(&lab, wire, &responder)?;
    let bypass = match variants.iter().any(|variant| variant.stack == Stack::Xsk) {
        true => Some(Arc::new(Mutex::new(steered(&lab, wire, &mut responder)?))),
        false => None,
    };
    let echoes = variants
        .iter()
        .map(|variant| variant.echo.map(|echo| Echo::start(&lab, wire, echo, bypass.as_ref())).transpose())
        .collect::<Result<Vec<_>>>()?;
    let measured = std::thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<Vec<Measured>> {
            client::settle(client_class)?;
            let mut all: Vec<_> = variants.iter().map(|variant| Measured::new(*variant)).collect();
            let end = Instant::now() + budget;
            let mut warm = false;
            while Instant::now() < end {
                for (measured, echo) in all.iter_mut().zip(&echoes) {
                    let turn = match echo {
                        None => client.turn(&measured.variant, PORT, burst)?,
                        Some(echo) => echo.during(|port| client.turn(&measured.variant, port, burst))?,
                    };
                    // The first round wakes everything up.
                    if warm {
                        measured.add(turn);
                    }
                }
                warm = true;
            }
            Ok(all)
        });
        worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the client panicked")))
    })?;
    Ok(report::findings(form, &measured, judged, &responder.mode, monitor))
}

/// n2's AF_XDP socket, to which XDP gives data.
fn steered(lab: &LabGuard, wire: Wire, responder: &mut Responder) -> Result<XskEnd> {
    let end = XskEnd::open(lab, wire, 2)?;
    responder.steer_to(lab, wire, &end)?;
    Ok(end)
}

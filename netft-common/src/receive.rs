//! From a received frame to a verdict: classifier, heartbeat logic and reply in one. XDP runs this and adds nothing
//! but the action and the counter.

use crate::fence::FenceTables;
use crate::heartbeat::{self, Answer, Refusal, Reject, Tables};
use crate::map::{COMMON_GATE, Counter, MAX_QUEUES, Steering, gate_index, socket_index};
use crate::packet::{self, Class, Family, Frame, Malformed, PacketMut, Shape};
use crate::wire::{Header, Heartbeat, kind};

/// What becomes of a frame that isn't rejected. Each carries the one counter it adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to the kernel, untouched.
    Pass(Counter),
    /// Ends here: an accepted leg that isn't answered.
    Consume(Counter),
    /// Has become the reply and goes back out where it came in.
    Reply(Counter),
    /// Goes, untouched, to the AF_XDP socket with this index ([`Counter::Redirected`]); to the kernel if there is none
    /// ([`Counter::FellThrough`]).
    Redirect(u32),
}

/// Decides on a frame. Only with [`Verdict::Reply`] it has been changed.
///
/// # Errors
/// Whatever is to be dropped, each reason with its own counter.
#[inline(always)]
pub fn receive<P: PacketMut + ?Sized, T: Tables + FenceTables>(
    packet: &mut P,
    tables: &T,
) -> Result<Verdict, Reject> {
    let Some(node) = tables.node() else { return Ok(Verdict::Pass(Counter::PassedOther)) };
    if node.cluster_id == 0 {
        return Ok(Verdict::Pass(Counter::PassedOther));
    }
    match packet::classify(packet, node.cluster_id, node.versions) {
        Class::Other => Ok(Verdict::Pass(Counter::PassedOther)),
        Class::OtherCluster => Ok(Verdict::Pass(Counter::PassedOtherCluster)),
        Class::Userspace(frame) => pass_hello(packet, tables, &frame),
        Class::Data(frame) => steer(packet, tables, &frame),
        Class::Malformed(frame, malformed) => reject_if_local(packet, tables, &frame, malformed),
        Class::Leg(frame) => {
            if frame.shape == Shape::Odd {
                return reject_odd(packet, tables, &frame);
            }
            let addresses = frame.addresses(packet).ok_or(Reject::Truncated)?;
            let mut leg: Heartbeat = packet.load(frame.message).ok_or(Reject::Truncated)?;
            match heartbeat::answer(tables, node, &addresses, &mut leg) {
                Ok(Answer::Reply) => {
                    packet::write_reply(packet, &frame, &addresses, &leg).ok_or(Reject::Truncated)?;
                    Ok(Verdict::Reply(match leg.header.kind {
                        kind::REPLY => Counter::Leg1,
                        kind::CONFIRMATION => Counter::Leg2,
                        _ => Counter::Leg3,
                    }))
                }
                Ok(Answer::Complete) => Ok(Verdict::Consume(Counter::Leg4)),
                Ok(Answer::Unanswered) => Ok(Verdict::Consume(Counter::Unanswered)),
                Err(Refusal::NotOurs) => Ok(Verdict::Pass(Counter::PassedOtherHost)),
                Err(Refusal::Reject(reject)) => Err(reject),
            }
        }
    }
}

/// Data goes to an AF_XDP socket only if it travels a route of ours, and came in where that route's interface is:
/// anything else is left to the kernel, so no frame is lost because of a socket.
#[inline(always)]
fn steer<P: PacketMut + ?Sized, T: Tables>(packet: &P, tables: &T, frame: &Frame) -> Result<Verdict, Reject> {
    let (Some(addresses), Some(header)) = (frame.addresses(packet), packet.load::<Header>(frame.message))
    else {
        return Err(Reject::Truncated);
    };
    let config = match heartbeat::find_slot(tables, &addresses, &header) {
        Ok((_, config)) => config,
        Err(Refusal::Reject(_)) => return to_userspace(tables, COMMON_GATE),
        Err(Refusal::NotOurs) => return Ok(Verdict::Pass(Counter::PassedUserspace)),
    };
    let path = tables.path(config.interface);
    let steered = match path.steering {
        Steering::Nothing => false,
        Steering::Probes => header.kind == kind::PROBE,
        Steering::Everything => true,
    };
    if !steered {
        return to_userspace(tables, gate_index(config.interface, frame.family == Family::V6));
    }
    let (ifindex, queue) = tables.ingress();
    if ifindex != path.ifindex || queue >= MAX_QUEUES {
        return Ok(Verdict::Pass(Counter::FellThrough));
    }
    Ok(Verdict::Redirect(socket_index(config.interface, queue)))
}

/// A hello, or what isn't a plain frame: only what is sent to us is for our socket.
#[inline(always)]
fn pass_hello<P: PacketMut + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    frame: &Frame,
) -> Result<Verdict, Reject> {
    let addresses = frame.addresses(packet).ok_or(Reject::Truncated)?;
    if !tables.is_local(addresses.destination()) {
        return Ok(Verdict::Pass(Counter::PassedUserspace));
    }
    to_userspace(tables, COMMON_GATE)
}

/// To the kernel's socket, if userspace has room for it.
#[inline(always)]
fn to_userspace<T: Tables>(tables: &T, gate: u32) -> Result<Verdict, Reject> {
    if let Some(gate) = tables.gate(gate) {
        let (passed, limit) = (tables.load(&gate.passed), tables.load(&gate.limit));
        if limit != 0 && passed >= limit {
            return Err(Reject::Backlog);
        }
        let _ = tables.compare_and_swap(&gate.passed, passed, passed + 1);
    }
    Ok(Verdict::Pass(Counter::PassedUserspace))
}

#[inline(always)]
fn reject_if_local<P: PacketMut + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    frame: &Frame,
    malformed: Malformed,
) -> Result<Verdict, Reject> {
    let addresses = frame.addresses(packet).ok_or(Reject::Truncated)?;
    if !tables.is_local(addresses.destination()) {
        return Ok(Verdict::Pass(Counter::PassedOtherHost));
    }
    Err(match malformed {
        Malformed::Version => Reject::Version,
        Malformed::Kind => Reject::Kind,
        Malformed::Truncated => Reject::Truncated,
    })
}

/// Legs are never fragmented and carry no options; somebody tries something.
#[inline(always)]
fn reject_odd<P: PacketMut + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    frame: &Frame,
) -> Result<Verdict, Reject> {
    let addresses = frame.addresses(packet).ok_or(Reject::Truncated)?;
    let header: Header = packet.load(frame.message).ok_or(Reject::Truncated)?;
    match heartbeat::find_slot(tables, &addresses, &header) {
        Ok(_) => Err(Reject::Fragment),
        Err(Refusal::NotOurs) => Ok(Verdict::Pass(Counter::PassedOtherHost)),
        Err(Refusal::Reject(reject)) => Err(reject),
    }
}

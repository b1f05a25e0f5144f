//! The UDP flow: paced datagrams; arrivals are stamped by the kernel, so a late receiver is no outage.

use super::flow::{FlowSpec, read_record, write_record};
use super::log::FlowLog;
use super::{be_prompt, boottime_ns, clock_ns, sleep_until};
use crate::lab::Lab;
use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::time::ClockId;
use std::io::{ErrorKind, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Below netft's detection thread, above everything ordinary.
const PRIORITY: u8 = 30;

pub(super) fn start(lab: &Lab, spec: &FlowSpec, log: &Arc<FlowLog>) -> Result<Vec<JoinHandle<()>>> {
    let receiver = lab
        .enter(&spec.to, || Ok(UdpSocket::bind(spec.address(0)?)?))
        .with_context(|| format!("binding to {} in {}", spec.destination, spec.to))?;
    setsockopt(&receiver, sockopt::ReceiveTimestampns, &true).context("SO_TIMESTAMPNS")?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let port = receiver.local_addr()?.port();
    let sender = lab.enter(&spec.from, || {
        let address = spec.address(port)?;
        let sender = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        sender.connect(address)?;
        Ok(sender)
    })?;
    // A full queue must show as loss, not as a sender that waits.
    sender.set_nonblocking(true)?;
    let (to_send, to_receive) = (spec.clone(), spec.clone());
    let (sender_log, receiver_log) = (Arc::clone(log), Arc::clone(log));
    Ok(vec![
        std::thread::Builder::new()
            .name("udp-receive".into())
            .spawn(move || receive(&receiver, &to_receive, &receiver_log))?,
        std::thread::Builder::new()
            .name("udp-send".into())
            .spawn(move || send(&sender, &to_send, &sender_log))?,
    ])
}

fn send(socket: &UdpSocket, spec: &FlowSpec, log: &FlowLog) {
    if let Err(error) = be_prompt(PRIORITY) {
        log.fault(format!("sender: {error:#}"));
    }
    let mut record = vec![0; spec.bytes.max(FlowSpec::MIN_BYTES)];
    let interval = spec.interval_ns();
    let mut next = boottime_ns();
    let end = next.saturating_add(u64::try_from(spec.limit.as_nanos()).unwrap_or(u64::MAX));
    while !log.stopped() {
        let now = boottime_ns();
        if now > end {
            break;
        }
        write_record(&mut record, log.sending(now), now);
        // Refused by the stack is lost like anything else: the sequence number is spent.
        let _ = socket.send(&record);
        // After a hiccup go on from now: a burst would hide the loss of one.
        next = (next + interval).max(now);
        sleep_until(next);
    }
}

fn receive(socket: &UdpSocket, spec: &FlowSpec, log: &FlowLog) {
    if let Err(error) = be_prompt(PRIORITY) {
        log.fault(format!("receiver: {error:#}"));
    }
    let mut buffer = vec![0; spec.bytes.max(FlowSpec::MIN_BYTES)];
    while !log.stopped() {
        match receive_one(socket, &mut buffer) {
            Ok((length, at_ns)) => {
                if let Some(sequence) = read_record(&buffer[..length]) {
                    log.arrived(sequence, at_ns);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => log.fault(format!("receiving: {error}")),
        }
    }
}

/// One datagram, with the moment of its arrival in boottime.
fn receive_one(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, u64)> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    // The stamp is in CLOCK_REALTIME: carry its age over to boottime.
    let (boottime, realtime) = (boottime_ns(), clock_ns(ClockId::CLOCK_REALTIME));
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(at) => u64::try_from(Duration::from(at).as_nanos()).ok(),
        _ => None,
    });
    let age = stamp.map_or(0, |at| realtime.saturating_sub(at));
    Ok((message.bytes, boottime.saturating_sub(age)))
}

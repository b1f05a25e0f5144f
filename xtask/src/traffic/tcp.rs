//! The TCP flow: one stream, one small write per record. What TCP loses it sends again, so the measure is how long
//! nothing new reaches the reader.

use super::flow::{FlowSpec, read_record, write_record};
use super::log::FlowLog;
use super::{be_prompt, boottime_ns, sleep_until};
use crate::lab::Lab;
use anyhow::{Context, Result};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Below netft's detection thread, above everything ordinary.
const PRIORITY: u8 = 30;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn start(lab: &Lab, spec: &FlowSpec, log: &Arc<FlowLog>) -> Result<Vec<JoinHandle<()>>> {
    let listener = lab
        .enter(&spec.to, || Ok(TcpListener::bind(spec.address(0)?)?))
        .with_context(|| format!("listening on {} in {}", spec.destination, spec.to))?;
    let port = listener.local_addr()?.port();
    // The kernel completes the handshake into the backlog, so connecting first and accepting then is no deadlock.
    let sender = lab
        .enter(&spec.from, || Ok(TcpStream::connect_timeout(&spec.address(port)?, CONNECT_LIMIT)?))
        .context("connecting")?;
    let (receiver, _) = listener.accept().context("accepting")?;
    sender.set_nodelay(true)?;
    sender.set_write_timeout(Some(Duration::from_secs(2)))?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (to_send, to_receive) = (spec.clone(), spec.clone());
    let (sender_log, receiver_log) = (Arc::clone(log), Arc::clone(log));
    Ok(vec![
        std::thread::Builder::new()
            .name("tcp-receive".into())
            .spawn(move || receive(receiver, &to_receive, &receiver_log))?,
        std::thread::Builder::new()
            .name("tcp-send".into())
            .spawn(move || send(sender, &to_send, &sender_log))?,
    ])
}

fn send(mut stream: TcpStream, spec: &FlowSpec, log: &FlowLog) {
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
        if let Err(error) = stream.write_all(&record) {
            log.fault(format!("the stream broke while writing: {error}"));
            break;
        }
        next = (next + interval).max(now);
        sleep_until(next);
    }
}

fn receive(mut stream: TcpStream, spec: &FlowSpec, log: &FlowLog) {
    if let Err(error) = be_prompt(PRIORITY) {
        log.fault(format!("receiver: {error:#}"));
    }
    let size = spec.bytes.max(FlowSpec::MIN_BYTES);
    let mut buffer = vec![0; size * 64];
    let mut filled = 0;
    let mut expected = 0;
    while !log.stopped() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => {
                if !log.stopped() {
                    log.fault("the stream was closed".to_string());
                }
                break;
            }
            Ok(length) => {
                let now = boottime_ns();
                filled += length;
                for record in buffer[..filled].chunks_exact(size) {
                    let sequence = read_record(record).unwrap_or(u64::MAX);
                    if sequence != expected {
                        log.fault(format!(
                            "the stream's content is wrong: record {sequence} after {expected}"
                        ));
                    }
                    expected = sequence.wrapping_add(1);
                    log.arrived(sequence, now);
                }
                let whole = filled / size * size;
                buffer.copy_within(whole..filled, 0);
                filled -= whole;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                log.fault(format!("the stream broke while reading: {error}"));
                break;
            }
        }
    }
}

//! A datagram goes to the other node and is answered; both ends wait in their calls, as services do.

use super::carrier::{Carrier, Carriers, Ends};
use crate::bench::record::Findings;
use crate::bench::reply::pin;
use crate::bench::stats::Summary;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BYTES: usize = 64;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Requests before those that count.
const WARM_UP: usize = 50;

/// Nanoseconds of each of `requests` round trips.
pub(super) fn run(carriers: &Carriers, ends: Ends, requests: usize) -> Result<Vec<u64>> {
    let bind = |node: &str, address| {
        let socket = carriers.lab().enter(node, || Ok(UdpSocket::bind((address, 0))?));
        let socket = socket.with_context(|| format!("binding to {address} in {node}"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        anyhow::Ok(socket)
    };
    let (client, echo) = (bind("n1", ends[0])?, bind("n2", ends[1])?);
    client.connect(echo.local_addr()?)?;
    echo.connect(client.local_addr()?)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What a service on another core is.
            let _ = pin(1);
            let mut buffer = [0; BYTES];
            while !stop.load(Ordering::Acquire) {
                if let Ok(length) = echo.recv(&mut buffer) {
                    let _ = echo.send(&buffer[..length]);
                }
            }
        });
        let asking = scope.spawn(|| {
            pin(0)?;
            ask(&client, requests)
        });
        let samples = asking.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the client panicked")));
        stop.store(true, Ordering::Release);
        samples
    })
}

fn ask(client: &UdpSocket, requests: usize) -> Result<Vec<u64>> {
    let mut buffer = [0x5a; BYTES];
    let mut samples = Vec::with_capacity(requests);
    for number in 0..WARM_UP + requests {
        let number_bytes = (number as u64).to_le_bytes();
        buffer[..8].copy_from_slice(&number_bytes);
        let began = Instant::now();
        client.send(&buffer)?;
        // A late answer to an earlier request is not this one's.
        while client.recv(&mut buffer).is_ok() && buffer[..8] != number_bytes {}
        if number >= WARM_UP {
            samples.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
    let lost = samples.iter().filter(|took| u128::from(**took) >= PATIENCE.as_nanos()).count();
    ensure!(lost * 100 <= requests, "{lost} of {requests} requests weren't answered in 200 ms");
    Ok(samples)
}

/// Nothing is bounded: it is reported.
pub(super) fn findings(rows: &[(Carrier, Vec<u64>)]) -> Findings {
    let mut lines = vec![format!("{:<28} {:>8} {:>8} {:>8}", "carrier", "median", "p99", "max")];
    let mut results = Vec::new();
    for (carrier, samples) in rows {
        let summary = Summary::micros(samples);
        lines.push(format!(
            "{:<28} {:>8.1} {:>8.1} {:>8.1}",
            carrier.name(),
            summary.median,
            summary.p99,
            summary.max
        ));
        results.push(json!({ "carrier": carrier.name(), "round_trip_us": summary }));
    }
    Findings { results: json!({ "rows": results }), bounds: Vec::new(), lines }
}

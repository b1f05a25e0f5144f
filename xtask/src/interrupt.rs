//! Ctrl-C and SIGTERM take labs down before they end the process: a drop never runs then.

use crate::lab::Lab;
use anyhow::{Context, Result};
use std::sync::{Mutex, Once, PoisonError};
use tokio::signal::unix::{SignalKind, signal};

static LABS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on, the lab called `name` is taken down when this process is interrupted.
pub fn take_down(name: &str) -> Result<()> {
    static STARTED: Once = Once::new();
    LABS.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_string());
    let mut started = Ok(());
    STARTED.call_once(|| started = start());
    started
}

fn start() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("waiting for signals")?;
    std::thread::Builder::new().name("interrupt".into()).spawn(move || {
        runtime.block_on(wait());
        for name in LABS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(error) = Lab::down(name) {
                eprintln!("lab {name} can't be taken down: {error:#}");
            }
        }
        eprintln!("interrupted; the lab is down");
        std::process::exit(130);
    })?;
    Ok(())
}

async fn wait() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

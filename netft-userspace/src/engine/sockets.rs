//! The UDP sockets: two per local endpoint. One receives everything and sends data and hellos; the other only sends
//! heartbeats, so that a send buffer full of data never keeps a heartbeat waiting.

use crate::sys::socket::{open_udp, receive_merged, receive_on_first};
use netft_common::wire::PORT;
use netft_core::membership::Interface;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The sockets of one local endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The interface that they are bound to.
    pub ifindex: u32,
    /// Receives; sends data and hellos.
    pub data: Arc<OwnedFd>,
    /// Sends heartbeats.
    pub heartbeat: Arc<OwnedFd>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Sockets {
    endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Sockets out of use that a thread may still hold: closed here once it doesn't, never by the detection thread.
    retired: Vec<Arc<OwnedFd>>,
}

/// What [`Sockets::update`] changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// New or bound anew.
    pub opened: Vec<IpAddr>,
    /// Gone.
    pub closed: Vec<IpAddr>,
    /// An address whose socket can't be had, its interface, and why.
    pub failed: Vec<(IpAddr, String, io::Error)>,
}

impl Sockets {
    /// Makes the sockets those of `interfaces`: opens what is new, retires what is gone.
    pub fn update<'a>(&mut self, interfaces: impl Iterator<Item = &'a Interface>) -> Changes {
        let mut changes = Changes::default();
        let mut old = std::mem::take(&mut self.endpoints);
        for interface in interfaces {
            for (address, _) in &interface.addresses {
                let same = old.remove(address);
                if let Some(endpoint) = same {
                    if endpoint.ifindex == interface.ifindex {
                        self.endpoints.insert(*address, endpoint);
                        continue;
                    }
                    self.retire(endpoint);
                }
                match open(*address, interface) {
                    Ok(endpoint) => {
                        self.endpoints.insert(*address, endpoint);
                        changes.opened.push(*address);
                    }
                    Err(error) => changes.failed.push((*address, interface.name.clone(), error)),
                }
            }
        }
        changes.closed.extend(old.keys());
        old.into_values().for_each(|endpoint| self.retire(endpoint));
        self.bury();
        changes
    }

    /// The sockets of an address.
    pub fn get(&self, local: IpAddr) -> Option<&Endpoint> {
        self.endpoints.get(&local)
    }

    /// Closes retired sockets that no thread holds any more.
    pub fn bury(&mut self) {
        self.retired.retain(|socket| Arc::strong_count(socket) > 1);
    }

    fn retire(&mut self, endpoint: Endpoint) {
        self.retired.extend([endpoint.data, endpoint.heartbeat]);
    }
}

fn open(address: IpAddr, interface: &Interface) -> io::Result<Endpoint> {
    // The order matters: the first of an address receives.
    let data = open_udp(address, PORT, &interface.name)?;
    receive_on_first(data.as_fd())?;
    let heartbeat = open_udp(address, PORT, &interface.name)?;
    for socket in [&data, &heartbeat] {
        // Older kernels give one datagram at a time.
        let _ = receive_merged(socket.as_fd());
    }
    Ok(Endpoint { ifindex: interface.ifindex, data: Arc::new(data), heartbeat: Arc::new(heartbeat) })
}

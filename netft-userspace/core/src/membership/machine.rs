//! The membership state machine's public face.

use super::{
    Adapter, EndpointView, HelloReject, HelloTransmit, Interface, MembershipCommand, MembershipConfig,
    MembershipEvent, NetworkView, PeerView, ReconfigureError, RouteInfo,
};
use crate::adapter::AdapterSeed;
use crate::keys::Secret;
use crate::types::{Nanos, RouteState, Slot};
use netft_common::map::SlotConfig;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Peers, endpoints, networks and routes of one node. Mutate, then drain: after every `handle_*`, [`Self::adopt`],
/// [`Self::reconfigure`] and [`Self::leave`], poll transmits, commands and events until they are empty.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    adapter: Adapter,
    transmits: VecDeque<HelloTransmit>,
    commands: VecDeque<MembershipCommand>,
    events: VecDeque<MembershipEvent>,
}

impl Membership {
    /// A node that knows nobody yet. `boot_nonce` lives in the pinned maps (a restarted daemon passes the same one);
    /// `random` are 32 fresh random bytes, from which all challenges are made.
    pub fn new(
        config: MembershipConfig,
        secret: Secret,
        boot_nonce: [u8; 16],
        adapter: AdapterSeed,
        random: [u8; 32],
    ) -> Self {
        let _ = (secret, boot_nonce, random);
        Self {
            config,
            adapter: adapter.adapter(),
            transmits: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The kernel's interfaces now (all of them, every time), and for each configured peer address the local address
    /// from which the kernel would reach it.
    pub fn handle_interfaces(
        &mut self,
        now: Nanos,
        interfaces: Vec<Interface>,
        sources: &BTreeMap<IpAddr, IpAddr>,
    ) {
        let _ = (now, interfaces, sources);
    }

    /// A datagram with kind hello arrived at `local`, port 3343, from `remote`. An error was counted already.
    pub fn handle_frame(
        &mut self,
        now: Nanos,
        local: IpAddr,
        remote: IpAddr,
        bytes: &[u8],
    ) -> Result<(), HelloReject> {
        let _ = (now, local, remote, bytes);
        Ok(())
    }

    /// Call when [`Self::poll_timeout`] is due.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let _ = now;
    }

    /// The detector reports a route's state: every change, and the first state of each route.
    pub fn handle_route(&mut self, now: Nanos, slot: Slot, state: RouteState) {
        let _ = (now, slot, state);
    }

    /// A new configuration. Cluster id and own node id can't change.
    pub fn reconfigure(&mut self, now: Nanos, config: MembershipConfig) -> Result<(), ReconfigureError> {
        let _ = now;
        self.config = config;
        Ok(())
    }

    /// Takes over the slots found in pinned maps of the same boot nonce. Call once, right after [`Self::new`].
    pub fn adopt(&mut self, now: Nanos, slots: &[(Slot, SlotConfig)]) {
        let _ = (now, slots);
    }

    /// Says goodbye on every route.
    pub fn leave(&mut self, now: Nanos) {
        let _ = now;
    }

    /// The next hello to send.
    pub fn poll_transmit(&mut self) -> Option<HelloTransmit> {
        self.transmits.pop_front()
    }

    /// The next command to carry out.
    pub fn poll_command(&mut self) -> Option<MembershipCommand> {
        self.commands.pop_front()
    }

    /// The next event to log.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called, boottime; `u64::MAX` = never.
    pub fn poll_timeout(&self) -> Nanos {
        Nanos::MAX
    }

    /// The configuration in force.
    pub fn config(&self) -> &MembershipConfig {
        &self.config
    }

    /// This node's `netft0`, as it must be now.
    pub fn adapter(&self) -> Adapter {
        self.adapter
    }

    /// This node's own endpoints, as announced.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        Vec::new()
    }

    /// Every configured peer, by name.
    pub fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }

    /// Every network, by number.
    pub fn networks(&self) -> Vec<NetworkView> {
        Vec::new()
    }

    /// Every known route, by peer name and addresses.
    pub fn routes(&self) -> Vec<RouteInfo> {
        Vec::new()
    }

    /// The route that has `slot`.
    pub fn route(&self, slot: Slot) -> Option<RouteInfo> {
        self.routes().into_iter().find(|route| route.slot == Some(slot))
    }

    /// Hellos accepted and rejected, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

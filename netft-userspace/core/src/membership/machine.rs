//! The membership state machine's public face and its timers.

use super::adopted::Adopted;
use super::handshake::Handshakes;
use super::local::Local;
use super::notices::Notices;
use super::peer::{Endpoint, Peer, RouteKey};
use super::rotation::Rotation;
use super::slots::Slots;
use super::speaker::{Form, Speaker};
use super::versions::Others;
use super::{
    Adapter, EndpointView, HelloReject, HelloTransmit, Interface, MembershipCommand, MembershipConfig,
    MembershipEvent, ReconfigureError,
};
use crate::adapter::AdapterSeed;
use crate::dice::Dice;
use crate::keys::{Keyring, Life, Secret};
use crate::networks::Network;
use crate::types::{Nanos, RouteState, Slot};
use netft_common::map::SlotConfig;
use netft_common::wire::{Header, kind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Peers, endpoints, networks and routes of one node. Mutate, then drain: after every `handle_*`, [`Self::adopt`],
/// [`Self::reconfigure`] and [`Self::leave`], poll transmits, commands and events until they are empty.
#[derive(Debug)]
pub struct Membership {
    pub(super) config: MembershipConfig,
    pub(super) seed: AdapterSeed,
    pub(super) speaker: Speaker,
    pub(super) local: Local,
    pub(super) sources: BTreeMap<IpAddr, IpAddr>,
    /// Own endpoints that are announced: those on networks with a role.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) networks: Vec<Network>,
    pub(super) peers: BTreeMap<String, Peer>,
    pub(super) slots: Slots,
    pub(super) adopted: Adopted,
    pub(super) next_generation: u32,
    /// When a peer whose routes found no slot is tried again.
    pub(super) retry_at_ns: Nanos,
    pub(super) notices: Notices,
    pub(super) others: Others,
    pub(super) accepted: u64,
    pub(super) rejected: [u64; HelloReject::COUNT],
    pub(super) handshakes: Handshakes,
    pub(super) rotation: Rotation,
    pub(super) commands: VecDeque<MembershipCommand>,
    pub(super) events: VecDeque<MembershipEvent>,
    pub(super) dice: Dice,
}

impl Membership {
    /// A node that knows nobody yet. `boot_nonce` lives in the pinned maps (a restarted daemon passes the same one);
    /// `random` are 32 fresh random bytes, from which all challenges and keys are made.
    pub fn new(
        config: MembershipConfig,
        secret: Secret,
        boot_nonce: [u8; 16],
        adapter: AdapterSeed,
        random: [u8; 32],
    ) -> Self {
        let keyring = Keyring::new(&secret, config.cluster_id);
        let life = Life { id: config.id, boot_nonce };
        let peers = config.peers.clone();
        let mut membership = Self {
            speaker: Speaker::new(&config, keyring, life, adapter.adapter()),
            config,
            seed: adapter,
            local: Local::default(),
            sources: BTreeMap::new(),
            endpoints: Vec::new(),
            networks: Vec::new(),
            peers: BTreeMap::new(),
            slots: Slots::new(),
            adopted: Adopted::default(),
            next_generation: 1,
            retry_at_ns: Nanos::MAX,
            notices: Notices::default(),
            others: Others::default(),
            accepted: 0,
            rejected: [0; HelloReject::COUNT],
            handshakes: Handshakes::default(),
            rotation: Rotation::default(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            dice: Dice::new(random),
        };
        for (name, peer) in peers {
            let challenge = membership.dice.number();
            membership.peers.insert(name, Peer::new(0, peer, challenge));
        }
        membership
    }

    /// The kernel's interfaces now (all of them, every time), and for each configured peer address the local address
    /// from which the kernel would reach it.
    pub fn handle_interfaces(
        &mut self,
        now: Nanos,
        interfaces: Vec<Interface>,
        sources: &BTreeMap<IpAddr, IpAddr>,
    ) {
        self.local.set(now, interfaces);
        if self.sources != *sources {
            self.sources.clone_from(sources);
            for peer in self.peers.values_mut() {
                peer.greet_at_ns = now;
            }
        }
        self.refresh(now);
        self.speak(now);
    }

    /// A datagram with kind hello or handshake arrived at `local`, port 3343, from `remote`. An error was counted already.
    pub fn handle_frame(
        &mut self,
        now: Nanos,
        local: IpAddr,
        remote: IpAddr,
        bytes: &[u8],
    ) -> Result<(), HelloReject> {
        let (local, remote) = (local.to_canonical(), remote.to_canonical());
        let outcome = match is_handshake(bytes) {
            true => self.accept_step(now, local, remote, bytes),
            false => self.accept(now, local, remote, bytes),
        };
        match outcome {
            Ok(()) => {
                self.accepted += 1;
                self.speak(now);
            }
            // Costs no more than the look at it.
            Err(reject) => self.rejected[reject as usize] += 1,
        }
        outcome
    }

    /// Call when [`Self::poll_timeout`] is due.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let retiring =
            self.peers.values().flat_map(|peer| peer.routes.values()).any(|route| route.retires(now));
        if self.local.timeout_ns() <= now
            || self.adopted.timeout_ns() <= now
            || self.retry_at_ns <= now
            || retiring
        {
            self.retry_at_ns = Nanos::MAX;
            self.local.settle(now);
            self.refresh(now);
        }
        self.expire_keys(now);
        self.give_up_absent(now);
        self.rotate_on(now);
        self.speak(now);
    }

    /// The detector reports a route's state: every change, and the first state of each route.
    pub fn handle_route(&mut self, now: Nanos, slot: Slot, state: RouteState) {
        self.adopted.set_state(slot, state);
        let has = |peer: &&mut Peer| peer.routes.values().any(|route| route.slot == slot);
        let Some(peer) = self.peers.values_mut().find(has) else { return };
        let was_reachable = peer.reachable();
        for route in peer.routes.values_mut().filter(|route| route.slot == slot) {
            route.state = state;
        }
        if was_reachable && !peer.reachable() && peer.suspect.is_some() {
            // It was no impostor but a reboot: don't wait for its next greeting.
            peer.routes.values_mut().for_each(|route| route.hurry(now));
            self.speak(now);
        }
        let retiring =
            self.peers.values().flat_map(|peer| peer.routes.values()).any(|r| r.retire_at_ns.is_some());
        if retiring {
            self.refresh(now);
            self.speak(now);
        }
    }

    /// A new configuration. Cluster id and own node id can't change.
    pub fn reconfigure(&mut self, now: Nanos, config: MembershipConfig) -> Result<(), ReconfigureError> {
        let (old, new) = (self.config.cluster_id, config.cluster_id);
        if old != new {
            return Err(ReconfigureError::ClusterId { old, new });
        }
        let (old, new) = (self.config.id.get(), config.id.get());
        if old != new {
            return Err(ReconfigureError::NodeId { old, new });
        }
        let gone = |name: &String| !config.peers.contains_key(name);
        for name in self.peers.keys().filter(|name| gone(name)).cloned().collect::<Vec<_>>() {
            self.drop_session(now, &name, "the peer was removed from the configuration");
            self.peers.remove(&name);
            self.events.push_back(MembershipEvent::PeerRemoved { peer: name });
        }
        for (name, peer) in &config.peers {
            let contradicts =
                |known: &Peer| peer.id.is_some() && known.session.is_some() && known.id() != peer.id;
            if self.peers.get(name).is_some_and(contradicts) {
                self.drop_session(now, name, "the peer's id was changed in the configuration");
            }
            if let Some(known) = self.peers.get_mut(name) {
                if known.config != *peer {
                    known.config.clone_from(peer);
                    (known.greetings, known.greet_at_ns) = (0, now);
                }
            } else {
                let challenge = self.dice.number();
                self.peers.insert(name.clone(), Peer::new(now, peer.clone(), challenge));
                self.events.push_back(MembershipEvent::PeerAdded { peer: name.clone() });
            }
        }
        if (&self.config.name, &self.config.site) != (&config.name, &config.site) {
            self.speaker.rename(&config);
            self.hurry_all(now);
        }
        self.config = config;
        self.set_security(now);
        // Who was removed isn't waited for.
        self.rotate_on(now);
        self.refresh(now);
        self.speak(now);
        Ok(())
    }

    /// Takes over the slots found in pinned maps of the same boot nonce. Call once, right after [`Self::new`].
    pub fn adopt(&mut self, now: Nanos, slots: &[(Slot, SlotConfig)]) {
        for (slot, config) in slots {
            self.next_generation = self.next_generation.max(config.generation.wrapping_add(1)).max(1);
            if self.adopted.add(now, *slot, config) {
                self.slots.take(*slot);
            }
        }
        if self.adopted.is_empty() {
            return;
        }
        self.local.prefer(self.adopted.local_addresses());
        self.events.push_back(MembershipEvent::RoutesAdopted { count: self.adopted.len() });
        if self.local.known {
            self.refresh(now);
        }
    }

    /// Says goodbye on every route.
    pub fn leave(&mut self, now: Nanos) {
        self.speaker.leaving = true;
        self.hurry_all(now);
        self.speak(now);
    }

    /// The next hello to send.
    pub fn poll_transmit(&mut self) -> Option<HelloTransmit> {
        self.speaker.poll()
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
        if !self.local.known {
            return Nanos::MAX;
        }
        let peers = self.peers.values().map(Peer::timeout_ns).min().unwrap_or(Nanos::MAX);
        let own = self.local.timeout_ns().min(self.adopted.timeout_ns()).min(self.retry_at_ns);
        peers.min(own).min(self.absence_timeout_ns()).min(self.rotation.timeout_ns())
    }

    /// The configuration in force.
    pub fn config(&self) -> &MembershipConfig {
        &self.config
    }

    /// This node's `netft0`, as it must be now.
    pub fn adapter(&self) -> Adapter {
        self.speaker.adapter
    }

    /// This node's own endpoints, as announced.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        self.endpoints.iter().map(Endpoint::view).collect()
    }

    /// Hellos and handshake steps accepted and rejected, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let rejected = HelloReject::NAMES.into_iter().zip(self.rejected);
        let accepted = [
            ("hello_accepted", self.accepted),
            ("handshakes_started", self.handshakes.started),
            ("handshakes_answered", self.handshakes.answered),
        ];
        accepted.into_iter().chain(rejected).collect()
    }

    /// Something that every peer must hear has changed.
    pub(super) fn hurry_all(&mut self, now: Nanos) {
        for route in self.peers.values_mut().flat_map(|peer| peer.routes.values_mut()) {
            route.hurry(now);
        }
    }

    /// Queues every hello that is due.
    pub(super) fn speak(&mut self, now: Nanos) {
        if !self.local.known {
            return;
        }
        for peer in self.peers.values_mut() {
            let echo = peer.session.as_ref().map_or(0, |session| session.echo);
            let secret = self.speaker.secret_for(peer.session.as_ref());
            let due: Vec<RouteKey> = peer
                .routes
                .iter()
                .filter(|(_, route)| route.next_hello_ns <= now)
                .map(|(key, _)| *key)
                .collect();
            for key in due {
                self.speaker.say(now, peer, &key, echo, Form::Full, secret);
                let pace = peer.pace();
                if let Some(route) = peer.routes.get_mut(&key) {
                    route.hello_sent(now, pace);
                }
            }
            if peer.reachable() || peer.greet_at_ns > now {
                continue;
            }
            let configured = peer.config.addresses.iter().filter_map(|&remote| {
                let local = *self.sources.get(&remote)?;
                Some(RouteKey { local, remote })
            });
            // The configured addresses may be the ones that can't be reached just now.
            let adopted =
                self.adopted.iter().filter(|(_, slot)| slot.peer().is_some() && slot.peer() == peer.id());
            let adopted = adopted.map(|(_, slot)| RouteKey { local: slot.local(), remote: slot.remote() });
            for key in configured.chain(adopted).collect::<BTreeSet<_>>() {
                if key.local != key.remote && !peer.routes.contains_key(&key) {
                    self.speaker.say(now, peer, &key, echo, Form::Full, secret);
                }
            }
            peer.greeted(now);
        }
        // Behind the hellos: they may be what makes the other end ready for it.
        self.start_handshakes(now);
        self.offer_secret(now);
    }
}

/// Whether bytes say that they are a step of a handshake.
fn is_handshake(bytes: &[u8]) -> bool {
    bytes.get(std::mem::offset_of!(Header, kind)) == Some(&kind::HANDSHAKE)
}

//! This node's voice: makes hellos and handshake messages.

use super::peer::{Endpoint, KeyFile, Peer, Route, RouteKey, Session};
use super::{Adapter, HelloTransmit, MembershipConfig};
use crate::keys::{Keyring, Keyrings, Life, SecretId};
use crate::session::{OFFER, Offer, Step, Wish};
use crate::types::{Nanos, NodeId};
use netft_common::hello::{self, field};
use netft_common::wire::{
    self, Handshake, Header, Hello, HelloEndpoint, MAX_ENDPOINTS, NAME_LEN, NO_SLOT, Versions, flags, kind,
};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

/// How much a hello says, and in which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Everything, in the newest that both speak; to somebody unknown in our oldest, which most can read.
    Full,
    /// Everything, in this one.
    Answer(u8),
    /// Identity and challenge, in this one.
    ChallengeOnly(u8),
}

/// Who this node is, and what it has still to say.
#[derive(Debug)]
pub struct Speaker {
    /// Everything the secret gives, or two of them.
    pub keyrings: Keyrings,
    /// Whether another secret could be written down.
    pub key_file: KeyFile,
    /// Own id and boot nonce.
    pub life: Life,
    /// Own `netft0`.
    pub adapter: Adapter,
    /// Whether it said goodbye.
    pub leaving: bool,
    cluster_id: u32,
    versions: Versions,
    name: [u8; NAME_LEN],
    site: [u8; NAME_LEN],
    endpoints: Vec<HelloEndpoint>,
    sequence: u64,
    queue: VecDeque<HelloTransmit>,
}

impl Speaker {
    /// Silent at first.
    pub fn new(config: &MembershipConfig, keyring: Keyring, life: Life, adapter: Adapter) -> Self {
        Self {
            keyrings: Keyrings { primary: keyring, other: None },
            key_file: KeyFile::Writable,
            life,
            adapter,
            leaving: false,
            cluster_id: config.cluster_id,
            versions: config.versions,
            name: field(&config.name),
            site: field(config.site.as_deref().unwrap_or_default()),
            endpoints: Vec::new(),
            sequence: 0,
            queue: VecDeque::new(),
        }
    }

    /// Name and site may change while running.
    pub fn rename(&mut self, config: &MembershipConfig) {
        self.name = field(&config.name);
        self.site = field(config.site.as_deref().unwrap_or_default());
    }

    /// What to announce. `true` if it differs from before.
    pub fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> bool {
        let endpoints: Vec<HelloEndpoint> =
            endpoints.iter().take(MAX_ENDPOINTS).map(Endpoint::to_wire).collect();
        let changed = self.endpoints != endpoints;
        self.endpoints = endpoints;
        changed
    }

    /// Length of a full hello.
    pub fn full_len(&self, version: u8) -> usize {
        hello::len(version, self.endpoints.len())
    }

    /// What is signed with for a peer: it may have only one of two secrets, not that which others get.
    pub fn secret_for(&self, session: Option<&Session>) -> SecretId {
        let Keyrings { primary, other } = &self.keyrings;
        match (other, session) {
            (Some(other), Some(session)) if session.told.signs == other.id() && !session.has(primary) => {
                other.id()
            }
            _ => primary.id(),
        }
    }

    /// Queues a hello to `peer`, signed with `secret`. `echo` is the challenge it answers, 0 if none.
    pub fn say(&mut self, now: Nanos, peer: &Peer, way: &RouteKey, echo: u64, form: Form, secret: SecretId) {
        let route = peer.routes.get(way);
        let session = peer.session.as_ref();
        // An answer to a hello of another life of the peer, which may have another id, goes to nobody by number.
        let known = session.filter(|session| session.echo == echo);
        let theirs = known.map(|session| session.versions).or(peer.versions);
        let common = theirs.and_then(|theirs| self.versions.common(theirs));
        let (version, challenge_only) = match form {
            Form::Full => (common.unwrap_or(self.versions.oldest), false),
            Form::Answer(version) => (version, false),
            Form::ChallengeOnly(version) => (version, true),
        };
        let lacks = session.is_none()
            || peer.suspect.is_some()
            || route.is_some_and(|route| route.config.remote_slot == NO_SLOT);
        let flag = |on: bool, bit| if on { bit } else { 0 };
        let wishes = |session: &Session| session.exchange.wish() == Wish::Renew;
        let header = self.header(now);
        let proof = self.keyrings.besides(secret).map(|ring| ring.proof(&self.life, header.sequence));
        let hello = Hello {
            header: Header {
                kind: kind::HELLO,
                version,
                slot: self.versions.to_slot(),
                flags: flag(self.leaving, flags::LEAVING)
                    | flag(lacks && !self.leaving, flags::SOLICIT)
                    | flag(known.is_some_and(wishes), flags::RENEW)
                    | flag(self.key_file == KeyFile::Fixed, flags::FIXED_SECRET)
                    | flag(challenge_only, flags::CHALLENGE_ONLY),
                destination: known.map_or(0, |session| session.life.id.get()),
                key_epoch: known.map_or(0, |session| session.exchange.epoch()),
                ..header
            },
            boot_nonce: self.life.boot_nonce,
            challenge: peer.challenge,
            echo,
            sender_slot: route.map_or(NO_SLOT, |route| u32::from(route.slot.get())),
            receiver_slot: route.map_or(NO_SLOT, |route| route.config.remote_slot),
            name: self.name,
            site: self.site,
            adapter_mac: self.adapter.mac,
            adapter_mtu: self.adapter.mtu,
            adapter_ipv4: self.adapter.ipv4.octets(),
            endpoint_count: 0,
            reserved: 0,
            adapter_ipv6: self.adapter.ipv6.octets(),
            other_secret: proof.unwrap_or(0),
        };
        let endpoints = if challenge_only { &[] } else { self.endpoints.as_slice() };
        let mut bytes = [0; hello::MAX_LEN];
        let end = hello::encode(&hello, endpoints, &mut bytes);
        self.queue_signed(way.local, way.remote, &bytes[..end], secret);
    }

    /// Queues a step of a handshake with `peer`, signed with the secret that it is bound to; `route` is the one that it
    /// travels.
    pub fn hand(
        &mut self,
        now: Nanos,
        peer: NodeId,
        way: &RouteKey,
        route: Option<&Route>,
        step: &Step,
        secret: SecretId,
    ) {
        let key_epoch = route.and_then(|route| route.config.sending()).map_or(0, |keys| keys.epoch);
        let destination = peer.get();
        let message = Handshake {
            header: Header {
                kind: kind::HANDSHAKE,
                version: step.version,
                destination,
                key_epoch,
                ..self.header(now)
            },
            boot_nonce: self.life.boot_nonce,
            number: step.number,
            step: step.step,
            reserved: 0,
            noise: step.noise,
        };
        self.queue_signed(way.local, way.remote, bytemuck::bytes_of(&message), secret);
    }

    /// Queues the next cluster secret for a peer, once for each way. Nothing, while there are no keys to seal it with, or the peer's
    /// release knows of no offers.
    pub fn offer(&mut self, now: Nanos, session: &Session, ways: &BTreeSet<RouteKey>, offer: &Offer) {
        let header = self.header(now);
        let number = header.sequence;
        let Some((key_epoch, version, noise)) = session.exchange.seal_offer(number, offer) else { return };
        let destination = session.life.id.get();
        let message = Handshake {
            header: Header { kind: kind::HANDSHAKE, version, destination, key_epoch, ..header },
            boot_nonce: self.life.boot_nonce,
            number,
            step: OFFER,
            reserved: 0,
            noise,
        };
        let secret = self.secret_for(Some(session));
        for way in ways {
            self.queue_signed(way.local, way.remote, bytemuck::bytes_of(&message), secret);
        }
    }

    /// What all headers have in common, with the next sequence.
    fn header(&mut self, now: Nanos) -> Header {
        self.sequence = self.sequence.saturating_add(1).max(now);
        Header {
            magic: wire::MAGIC,
            version: 0,
            kind: 0,
            flags: 0,
            cluster_id: self.cluster_id,
            source: self.life.id.get(),
            destination: 0,
            slot: NO_SLOT,
            key_epoch: 0,
            sequence: self.sequence,
        }
    }

    fn queue_signed(&mut self, local: IpAddr, remote: IpAddr, message: &[u8], secret: SecretId) {
        let Some(keyring) = self.keyrings.of(secret) else { return };
        let tag = keyring.hello_tag(local, remote, message);
        self.queue.push_back(HelloTransmit { local, remote, payload: [message, &tag[..]].concat() });
    }

    /// The next hello to send.
    pub fn poll(&mut self) -> Option<HelloTransmit> {
        self.queue.pop_front()
    }
}

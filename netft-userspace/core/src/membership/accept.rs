//! What a hello may change, and what not.
//!
//! A hello is *fresh* if it echoes the challenge that we last sent to that peer: it can't be a replay. A session
//! begins, or passes to another life of the peer, only by a fresh one. Within a session a higher sequence
//! (the sender's boottime) is enough. Everything else authentic is answered, within limits and with no more bytes
//! than it had, so that the next one can be fresh; what isn't authentic is counted.

use super::machine::Membership;
use super::peer::{Announcement, Endpoint, KeyFile, Peer, RouteKey, Session, Told};
use super::speaker::Form;
use super::{Adapter, HelloReject, MembershipEvent};
use crate::keys::{Life, SecretId, lives};
use crate::session::{Exchange, LiveKeys, Part};
use crate::types::{Nanos, NodeId, RouteState};
use netft_common::hello::{self, HelloError, HelloView, text};
use netft_common::map::MAX_SLOTS;
use netft_common::wire::{HELLO_TAG_LEN, Hello, NO_SLOT, SECRETS_VERSION, Versions, flags};
use std::net::IpAddr;

/// How much older than the newest hello of a session one may be and still tell a slot that was unknown: hellos on
/// several routes overtake each other.
const OVERTAKEN_NS: Nanos = 1_000_000_000;
/// How much further than time sequences may be since the last fresh hello, unless this one is fresh: one that somebody with the
/// secret made up elsewhere must not make us deaf to the real ones.
const JUMP_NS: Nanos = 2_000_000_000;

/// An authentic hello and where it came from.
struct Incoming<'a> {
    local: IpAddr,
    remote: IpAddr,
    life: Life,
    name: &'a str,
    hello: Hello,
    len: usize,
    versions: Versions,
    said: Announcement,
    told: Told,
}

impl Incoming<'_> {
    fn has(&self, flag: u16) -> bool {
        self.hello.header.flags & flag != 0
    }

    fn key(&self) -> RouteKey {
        RouteKey { local: self.local, remote: self.remote }
    }
}

impl Membership {
    pub(super) fn accept(
        &mut self,
        now: Nanos,
        local: IpAddr,
        remote: IpAddr,
        bytes: &[u8],
    ) -> Result<(), HelloReject> {
        let view = match hello::decode(bytes, self.config.versions) {
            Err(HelloError::Version) => {
                return Err(self.other_version(now, &RouteKey { local, remote }, bytes));
            }
            view => view?,
        };
        let header = view.hello.header;
        let way = RouteKey { local, remote };
        let signs = self.authenticate(now, &way, header.cluster_id, view.signed, view.tag)?;
        let id = NodeId::new(header.source).ok_or(HelloReject::Malformed)?;
        let versions = Versions::from_slot(header.slot).ok_or(HelloReject::Malformed)?;
        let secrets = |version| version >= SECRETS_VERSION;
        // Whoever could prove another secret, but greets as if we were of the release before, hasn't said that there is none.
        let proves = secrets(header.version) || !self.config.versions.common(versions).is_some_and(secrets);
        let incoming = Incoming {
            local,
            remote,
            life: Life { id, boot_nonce: view.hello.boot_nonce },
            name: text(&view.hello.name).ok_or(HelloReject::Malformed)?,
            hello: view.hello,
            len: bytes.len(),
            versions,
            said: announcement(&view)?,
            told: Told {
                signs,
                proof: proves.then_some(view.hello.other_secret),
                key_file: match header.flags & flags::FIXED_SECRET {
                    0 => KeyFile::Writable,
                    _ => KeyFile::Fixed,
                },
                sequence: header.sequence,
            },
        };
        if id == self.config.id {
            return Err(self.own_id(now, &incoming));
        }
        if header.destination != 0 && header.destination != self.config.id.get() {
            return Err(HelloReject::Destination);
        }
        let peer = self.identify(now, &incoming)?;
        self.others.forget(remote);
        self.converse(now, &peer, incoming)
    }

    /// Whether a message is of this cluster and made by who knows its secret: which one, while there are two.
    pub(super) fn authenticate(
        &mut self,
        now: Nanos,
        way: &RouteKey,
        cluster_id: u32,
        signed: &[u8],
        tag: &[u8; HELLO_TAG_LEN],
    ) -> Result<SecretId, HelloReject> {
        let (from, own) = (way.remote, self.config.cluster_id);
        if cluster_id != own {
            self.tell_configured(now, MembershipEvent::OtherCluster { from, cluster_id, own }, from);
            return Err(HelloReject::OtherCluster);
        }
        let signer = self.speaker.keyrings.signer(from, way.local, signed, tag);
        if signer.is_none() {
            self.tell_configured(now, MembershipEvent::WrongSecret { from }, from);
        }
        signer.ok_or(HelloReject::Tag)
    }

    fn own_id(&mut self, now: Nanos, incoming: &Incoming<'_>) -> HelloReject {
        if incoming.life == self.speaker.life {
            return HelloReject::Reflected;
        }
        let (id, name, from) = (incoming.life.id, incoming.name.to_owned(), incoming.remote);
        self.tell(now, MembershipEvent::OwnIdTaken { id, name, from });
        HelloReject::OwnId
    }

    /// Which configured peer this is. Names and ids must agree with the configuration and with what was learned.
    fn identify(&mut self, now: Nanos, incoming: &Incoming<'_>) -> Result<String, HelloReject> {
        let (id, name, from) = (incoming.life.id, incoming.name, incoming.remote);
        // Whoever has the id now, under another name.
        let holder = self.peers.iter().find(|(other, peer)| *other != name && peer.id() == Some(id));
        if let Some((peer, known)) = holder {
            let (peer, expected) = (peer.clone(), known.id());
            if known.session.is_some() {
                self.tell(now, MembershipEvent::DuplicateNodeId { id, peer, from });
                return Err(HelloReject::DuplicateId);
            }
            let name = name.to_owned();
            self.tell(now, MembershipEvent::IdentityMismatch { peer, expected, name, id, from });
            return Err(HelloReject::Identity);
        }
        if let Some(known) = self.peers.get(name) {
            // An id that was only learned may change while the peer can't be reached.
            let other =
                known.config.id.or(known.id().filter(|_| known.reachable())).filter(|known| *known != id);
            if other.is_none() {
                return Ok(name.to_owned());
            }
            let (peer, name) = (name.to_owned(), name.to_owned());
            self.tell(now, MembershipEvent::IdentityMismatch { peer, expected: other, name, id, from });
            return Err(HelloReject::Identity);
        }
        let name = name.to_owned();
        let configured = self.peers.iter().find(|(_, peer)| peer.config.addresses.contains(&from));
        if let Some((peer, known)) = configured {
            let (peer, expected) = (peer.clone(), known.id());
            self.tell(now, MembershipEvent::IdentityMismatch { peer, expected, name, id, from });
            return Err(HelloReject::Identity);
        }
        self.tell(now, MembershipEvent::UnknownNode { name, id, from });
        Err(HelloReject::UnknownNode)
    }

    fn converse(&mut self, now: Nanos, name: &str, incoming: Incoming<'_>) -> Result<(), HelloReject> {
        let challenge_only = incoming.has(flags::CHALLENGE_ONLY);
        if !self.local.known {
            // Who doesn't know its own endpoints yet has nothing to answer.
            return Err(HelloReject::Unfresh);
        }
        let peer = self.peers.get_mut(name).ok_or(HelloReject::UnknownNode)?;
        let fresh = incoming.hello.echo == peer.challenge;
        if peer.session.as_ref().is_some_and(|session| session.life == incoming.life) {
            return self.continue_session(now, name, incoming);
        }
        peer.versions = Some(incoming.versions);
        if !fresh {
            // A stale challenge is not worth an answer: the next greeting starts over.
            if !challenge_only && peer.answers.take(now) {
                // In the version of the question: another one's answer may be longer.
                let version = incoming.hello.header.version;
                let fits = self.speaker.full_len(version) <= incoming.len;
                let form = if fits { Form::Answer(version) } else { Form::ChallengeOnly(version) };
                // With what it signs itself: it may have lost what it had before.
                let (echo, secret) = (incoming.hello.challenge, incoming.told.signs);
                self.speaker.say(now, peer, &incoming.key(), echo, form, secret);
            }
            return Err(HelloReject::Unfresh);
        }
        if challenge_only {
            // It has served its purpose: repeated, it is unfresh and gets no answer.
            self.renew_challenge(name);
            let peer = self.peers.get_mut(name).ok_or(HelloReject::UnknownNode)?;
            if peer.replies.take(now) {
                let (echo, secret) = (incoming.hello.challenge, incoming.told.signs);
                self.speaker.say(now, peer, &incoming.key(), echo, Form::Full, secret);
            }
            return Ok(());
        }
        let leaving = peer.session.as_ref().is_some_and(|session| session.leaving);
        let lives = lives(&self.speaker.life, &incoming.life);
        if (peer.reachable() && !leaving) || self.adopted.contradicts(incoming.life.id, lives) {
            self.suspect(now, name, &incoming);
            return Err(HelloReject::DuplicateId);
        }
        self.establish(now, name, incoming);
        Ok(())
    }

    /// Somebody else, or the peer itself rebooted faster than its routes went down: only one of them stays.
    fn suspect(&mut self, now: Nanos, name: &str, incoming: &Incoming<'_>) {
        self.renew_challenge(name);
        let Some(peer) = self.peers.get_mut(name) else { return };
        let routes = peer.routes.values().filter_map(|route| route.installed.as_ref());
        let detection_ns = routes.map(|install| install.timing.detection_ns()).max().unwrap_or(0);
        match peer.suspect {
            Some((life, since)) if life == incoming.life => {
                if now.saturating_sub(since) > detection_ns.saturating_mul(2) {
                    let (id, from) = (life.id, incoming.remote);
                    self.tell(now, MembershipEvent::DuplicateNodeId { id, peer: name.to_owned(), from });
                }
            }
            _ => peer.suspect = Some((incoming.life, now)),
        }
    }

    /// A new life of a peer begins.
    fn establish(&mut self, now: Nanos, name: &str, incoming: Incoming<'_>) {
        let Some(peer) = self.peers.get(name) else { return };
        let (id, from, key) = (incoming.life.id, incoming.remote, incoming.key());
        let before = peer.session.as_ref().map(|session| session.life.id);
        if before.is_some_and(|before| before != id) {
            self.drop_session(now, name, "the peer has another id");
        }
        self.renew_challenge(name);
        // The keys of another life are no longer good for anything.
        self.remove_keys(name);
        let (period_ns, level) = (self.config.key_period_ns, self.config.level);
        let Some(peer) = self.peers.get_mut(name) else { return };
        let (hello, leaving) = (incoming.hello, incoming.has(flags::LEAVING));
        let part = Part::of(self.config.id, id);
        peer.session = Some(Session {
            life: incoming.life,
            since_ns: now,
            exchange: Exchange::new(now, part, hello.header.sequence, period_ns, level),
            installed: LiveKeys::default(),
            heard: key,
            versions: incoming.versions,
            newest_sequence: hello.header.sequence,
            fresh: (hello.header.sequence, now),
            echo: hello.challenge,
            leaving,
            told: incoming.told,
            offer_sequence: hello.header.sequence,
            said: incoming.said,
        });
        (peer.greetings, peer.suspect) = (0, None);
        for route in peer.routes.values_mut() {
            route.state = RouteState::Down;
            route.slot_sequence = 0;
        }
        let peer = name.to_owned();
        self.events.push_back(match before {
            Some(_) => MembershipEvent::PeerRestarted { peer, id, from },
            None => MembershipEvent::PeerJoined { peer, id, from },
        });
        self.refresh_peer(now, name);
        self.hear_epoch(now, name, &hello.header);
        self.rotate_on(now);
        self.learn_slot(now, name, key, &hello);
        let Some(peer) = self.peers.get_mut(name) else { return };
        for route in peer.routes.values_mut() {
            route.hurry(now);
        }
        if !peer.routes.contains_key(&key) {
            // No route will carry our echo to it: it must come the way the hello came.
            let secret = self.speaker.secret_for(peer.session.as_ref());
            self.speaker.say(now, peer, &key, hello.challenge, Form::Full, secret);
        }
    }

    fn continue_session(
        &mut self,
        now: Nanos,
        name: &str,
        incoming: Incoming<'_>,
    ) -> Result<(), HelloReject> {
        let (key, hello) = (incoming.key(), incoming.hello);
        let Some(peer) = self.peers.get_mut(name) else { return Err(HelloReject::UnknownNode) };
        let fresh = hello.echo == peer.challenge;
        let Some(session) = peer.session.as_mut() else { return Err(HelloReject::Old) };
        if hello.header.sequence <= session.newest_sequence {
            let age = session.newest_sequence - hello.header.sequence;
            return if age < OVERTAKEN_NS && self.learn_slot(now, name, key, &hello) {
                Ok(())
            } else {
                Err(HelloReject::Old)
            };
        }
        let (sequence, at_ns) = session.fresh;
        let limit = sequence.saturating_add(now.saturating_sub(at_ns)).saturating_add(JUMP_NS);
        if fresh {
            session.fresh = (hello.header.sequence, now);
        } else if hello.header.sequence > limit {
            return Err(HelloReject::Unfresh);
        }
        session.newest_sequence = hello.header.sequence;
        session.echo = hello.challenge;
        session.heard = key;
        session.versions = incoming.versions;
        let secret = self.speaker.secret_for(Some(&*session));
        session.told = incoming.told;
        if self.speaker.secret_for(Some(&*session)) != secret {
            session.exchange.rebind(now);
        }
        let leaving = incoming.has(flags::LEAVING);
        if session.leaving != leaving {
            session.leaving = leaving;
            let peer = name.to_owned();
            self.events.push_back(if leaving {
                MembershipEvent::PeerLeaving { peer }
            } else {
                MembershipEvent::PeerReturned { peer }
            });
        }
        let changed = !incoming.has(flags::CHALLENGE_ONLY) && session.said != incoming.said;
        if changed {
            session.said = incoming.said;
        }
        if fresh {
            self.renew_challenge(name);
        }
        self.hear_epoch(now, name, &hello.header);
        self.rotate_on(now);
        if changed {
            self.refresh_peer(now, name);
        }
        self.learn_slot(now, name, key, &hello);
        let Some(peer) = self.peers.get_mut(name) else { return Err(HelloReject::UnknownNode) };
        let own_slot = peer.routes.get(&key).map(|route| u32::from(route.slot.get()));
        // The peer has this route and is wrong about our slot. (If it has none, telling again would change nothing.)
        let misled = hello.sender_slot != NO_SLOT && own_slot.is_some_and(|slot| slot != hello.receiver_slot);
        let asked = hello.header.flags & flags::SOLICIT != 0;
        if (asked || misled) && !leaving && peer.replies.take(now) {
            match peer.routes.get_mut(&key) {
                Some(route) => route.next_hello_ns = now,
                None => {
                    let secret = self.speaker.secret_for(peer.session.as_ref());
                    self.speaker.say(now, peer, &key, hello.challenge, Form::Full, secret);
                }
            }
        }
        Ok(())
    }

    /// Takes the peer's slot of the route that `hello` travelled. `true` if it is news.
    fn learn_slot(&mut self, now: Nanos, name: &str, key: RouteKey, hello: &Hello) -> bool {
        let Some(route) = self.peers.get_mut(name).and_then(|peer| peer.routes.get_mut(&key)) else {
            return false;
        };
        let slot = hello.sender_slot;
        if slot >= MAX_SLOTS || hello.header.sequence <= route.slot_sequence {
            return false;
        }
        route.slot_sequence = hello.header.sequence;
        if route.config.remote_slot == slot {
            return false;
        }
        route.config.remote_slot = slot;
        // The peer may be waiting to hear that we know.
        route.hurry(now);
        self.install(name, key);
        true
    }

    fn renew_challenge(&mut self, name: &str) {
        let challenge = self.dice.number();
        if let Some(peer) = self.peers.get_mut(name) {
            peer.challenge = challenge;
        }
    }

    /// An event that others can provoke.
    pub(super) fn tell(&mut self, now: Nanos, event: MembershipEvent) {
        if self.notices.tell(now, event.kind(), event.subject()) {
            self.events.push_back(event);
        }
    }

    /// One that anybody can provoke, without knowing the secret: only about addresses that peers have.
    fn tell_configured(&mut self, now: Nanos, event: MembershipEvent, from: IpAddr) {
        let announced = |peer: &Peer| peer.routes.keys().any(|key| key.remote == from);
        if self.peers.values().any(|peer| peer.config.addresses.contains(&from) || announced(peer)) {
            self.tell(now, event);
        }
    }
}

/// What the sender says of itself.
fn announcement(view: &HelloView<'_>) -> Result<Announcement, HelloReject> {
    let hello = &view.hello;
    let site = text(&hello.site).ok_or(HelloReject::Malformed)?;
    let adapter = Adapter {
        mac: hello.adapter_mac,
        ipv4: hello.adapter_ipv4.into(),
        ipv6: hello.adapter_ipv6.into(),
        mtu: hello.adapter_mtu,
    };
    let multicast = adapter.mac[0] & 1 == 1;
    if multicast || !adapter.ipv4.is_link_local() || !adapter.ipv6.is_unicast_link_local() {
        return Err(HelloReject::Malformed);
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in view.endpoints().filter_map(|wire| Endpoint::from_wire(&wire)) {
        if endpoints.iter().all(|known| known.address != endpoint.address) {
            endpoints.push(endpoint);
        }
    }
    Ok(Announcement { site: (!site.is_empty()).then(|| site.to_owned()), adapter, endpoints })
}

//! Handshakes within membership: who is asked for new keys, and what becomes of them.

use super::machine::Membership;
use super::peer::RouteKey;
use super::{HelloReject, MembershipCommand, MembershipEvent};
use crate::keys::Life;
use crate::session::{Agreement, Heard, LiveKeys, OFFER, Step, Wish};
use crate::types::{Nanos, NodeId};
use netft_common::handshake;
use netft_common::wire::{Header, flags};
use std::net::IpAddr;

/// Handshakes, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    /// Step 1 sent, repetitions included; not once for each way to the peer.
    pub started: u64,
    /// Step 2 sent, repetitions included.
    pub answered: u64,
}

impl Membership {
    /// A peer's keys have been used for as much as they are good for: new ones are wanted.
    pub fn renew(&mut self, now: Nanos, peer: NodeId) {
        let found = self.peers.values_mut().find(|known| known.id() == Some(peer));
        let Some(peer) = found else { return };
        if let Some(session) = &mut peer.session {
            session.exchange.renew(now);
            // Who doesn't start handshakes asks for one.
            peer.routes.values_mut().for_each(|route| route.hurry(now));
        }
        self.speak(now);
    }

    /// A step of a handshake arrived. Only a session's peer is listened to, in the life that it introduced itself with, and
    /// nothing is computed or kept before all that can be checked cheaply is.
    pub(super) fn accept_step(
        &mut self,
        now: Nanos,
        local: IpAddr,
        remote: IpAddr,
        bytes: &[u8],
    ) -> Result<(), HelloReject> {
        let view = handshake::decode(bytes, self.config.versions)?;
        let (message, header) = (view.message, view.message.header);
        let way = RouteKey { local, remote };
        let secret = self.authenticate(now, &way, header.cluster_id, view.signed, view.tag)?;
        let id = NodeId::new(header.source).ok_or(HelloReject::Malformed)?;
        if id == self.config.id {
            return Err(HelloReject::Reflected);
        }
        if header.destination != self.config.id.get() {
            return Err(HelloReject::Destination);
        }
        let life = Life { id, boot_nonce: message.boot_nonce };
        let name = self.name_of(id).ok_or(HelloReject::StepUnexpected)?;
        let peer = self.peers.get_mut(&name).ok_or(HelloReject::StepUnexpected)?;
        let session = peer.session.as_mut().filter(|session| session.life == life);
        let session = session.ok_or(HelloReject::StepUnexpected)?;
        if message.step == OFFER {
            if message.number != header.sequence {
                return Err(HelloReject::Malformed);
            }
            if header.sequence <= session.offer_sequence {
                return Err(HelloReject::StepOld);
            }
            let offer = session.exchange.open_offer(
                (header.key_epoch, header.version),
                message.number,
                &message.noise,
            );
            let offer = offer.ok_or(HelloReject::StepNoise)?;
            session.offer_sequence = header.sequence;
            return self.take_offer(now, &name, &offer);
        }
        let keyring = self.speaker.keyrings.of(secret).ok_or(HelloReject::Tag)?;
        let agreement = Agreement {
            cluster_id: self.config.cluster_id,
            psk: keyring.session_psk(),
            own: self.speaker.life,
            peer: session.life,
            version: header.version,
        };
        let step = Step {
            version: header.version,
            number: message.number,
            step: message.step,
            noise: message.noise,
        };
        let before = session.exchange.epoch();
        if step.step == 1 {
            // Whoever starts says as well what it sends with now: that must stay good.
            session.exchange.hear(now, header.sequence, header.key_epoch, Wish::None);
        }
        let answer = session.exchange.take(now, header.sequence, &step, &agreement, &mut self.dice);
        if before == 0 {
            peer.routes.values_mut().for_each(|route| route.config.send_with(header.key_epoch));
        }
        if let Ok(Some(answer)) = &answer {
            self.handshakes.answered += 1;
            self.speaker.hand(now, id, &way, peer.routes.get(&way), answer, secret);
        }
        self.follow_keys(now, &name, before);
        answer?;
        Ok(())
    }

    /// A hello within the session says which keys its sender uses, if it knows whom it speaks to.
    pub(super) fn hear_epoch(&mut self, now: Nanos, name: &str, header: &Header) {
        if header.destination == 0 {
            return;
        }
        let Some(session) = self.peers.get_mut(name).and_then(|peer| peer.session.as_mut()) else { return };
        let wish = if header.flags & flags::RENEW != 0 { Wish::Renew } else { Wish::None };
        let before = session.exchange.epoch();
        if session.exchange.hear(now, header.sequence, header.key_epoch, wish) == Heard::Switched
            || before == 0
        {
            self.follow_peer(name, header.key_epoch);
            self.follow_keys(now, name, before);
        }
    }

    /// Without keys of our own yet, what an earlier daemon left is used: of that, what the peer says that it sends with. New
    /// keys take the place of the other then.
    fn follow_peer(&mut self, name: &str, epoch: u32) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        if peer.session.as_ref().is_some_and(|session| session.exchange.epoch() == 0) {
            peer.routes.values_mut().for_each(|route| route.config.send_with(epoch));
        }
    }

    /// Sends what handshakes have to say now, on every way to each peer.
    pub(super) fn start_handshakes(&mut self, now: Nanos) {
        for peer in self.peers.values_mut() {
            let Some(session) = peer.session.as_mut().filter(|session| session.timeout_ns() <= now) else {
                continue;
            };
            let Some(version) = self.config.versions.common(session.versions) else { continue };
            let secret = self.speaker.secret_for(Some(&*session));
            let Some(keyring) = self.speaker.keyrings.of(secret) else { continue };
            let agreement = Agreement {
                cluster_id: self.config.cluster_id,
                psk: keyring.session_psk(),
                own: self.speaker.life,
                peer: session.life,
                version,
            };
            let Some(step) = session.exchange.poll(now, &agreement, &mut self.dice) else { continue };
            self.handshakes.started += 1;
            let id = session.life.id;
            for way in peer.ways() {
                self.speaker.hand(now, id, &way, peer.routes.get(&way), &step, secret);
            }
        }
    }

    /// Ends keys whose time is over.
    pub(super) fn expire_keys(&mut self, now: Nanos) {
        let names: Vec<String> = self.peers.keys().cloned().collect();
        for name in names {
            let session = self.peers.get_mut(&name).and_then(|peer| peer.session.as_mut());
            if let Some(session) = session
                && session.exchange.expire(now)
            {
                let before = session.exchange.epoch();
                self.follow_keys(now, &name, before);
            }
        }
    }

    /// Another time for keys, or another level, from the configuration.
    pub(super) fn set_security(&mut self, now: Nanos) {
        let (period_ns, level) = (self.config.key_period_ns, self.config.level);
        for peer in self.peers.values_mut() {
            let Some(session) = &mut peer.session else { continue };
            let before = session.exchange.wish();
            session.exchange.set_period(period_ns);
            session.exchange.set_level(now, level);
            if session.exchange.wish() != before {
                // Who doesn't start handshakes asks for one.
                peer.routes.values_mut().for_each(|route| route.hurry(now));
            }
        }
    }

    /// Brings routes and data up to date with a peer's keys; `before` is the epoch that was sent with until now.
    fn follow_keys(&mut self, now: Nanos, name: &str, before: u32) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        let Some(session) = peer.session.as_mut() else { return };
        let (id, epoch) = (session.life.id, session.exchange.epoch());
        let live = session.exchange.live();
        if session.installed != live {
            session.installed = live.clone();
            self.commands.push_back(MembershipCommand::SetSession(id, Box::new(live)));
        }
        for route in peer.routes.values_mut() {
            session.exchange.shape(&mut route.config);
            if epoch != before {
                // The other end must hear that we send with them.
                route.hurry(now);
            }
        }
        let ways: Vec<RouteKey> = peer.routes.keys().copied().collect();
        for way in ways {
            self.install(name, way);
        }
        if before == 0 && epoch != 0 {
            self.events.push_back(MembershipEvent::SessionOpened { peer: name.to_owned() });
        }
    }

    /// The keys of a peer are good no longer.
    pub(super) fn remove_keys(&mut self, name: &str) {
        let Some(session) = self.peers.get_mut(name).and_then(|peer| peer.session.as_mut()) else { return };
        if session.installed != LiveKeys::default() {
            session.installed = LiveKeys::default();
            self.commands.push_back(MembershipCommand::RemoveSession(session.life.id));
        }
    }
}

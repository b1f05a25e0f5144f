//! `netft key rotate`: another cluster secret, while the cluster runs.
//!
//! Every node goes through the same phases, and writes down each before it says that it is there:
//!
//! ```text
//! (one secret)  signs with the old one, accepts the old one
//! offered       signs with the old one, accepts both        everybody must be here, or further, before anybody goes on
//! switched      signs with the new one, accepts both        everybody must be here, or further, before anybody goes on
//! (one secret)  signs with the new one, accepts the new one
//! ```
//!
//! So whatever one node signs with, all others accept, whoever crashes, is cut off or starts again in between. Where the
//! rotation was started is also where it goes from the first phase to the second, and the others follow; until then it can
//! be aborted there, and nowhere else, so nobody can go on with what another gives up; and there it ends last, so that its end
//! is everybody's. Hellos say what a node signs with (by their authenticator), and prove which other secret it has.
//!
//! A disk may be lost meanwhile. Then who signs with the new secret already offers it to the node that lacks it, and signs
//! with the old one for that node alone; and nobody gives a secret up that others sign with.

use super::machine::Membership;
use super::peer::{KeyFile, Session};
use super::{HelloReject, MembershipCommand, MembershipEvent};
use crate::keys::{Keyring, Life, Secret, SecretId};
use crate::session::Offer;
use crate::types::{Nanos, NodeId};
use netft_common::wire::SECRETS_VERSION;

/// Between two offers to peers that don't have the next secret yet.
const OFFER_EVERY_NS: Nanos = 500_000_000;
/// How long the old secret is accepted after everybody signs with the new one: what is under way still counts.
const GRACE_NS: Nanos = 2_000_000_000;
/// After what couldn't be written, before it is tried again.
const RETRY_NS: Nanos = 5_000_000_000;

/// What this node signs with while there are two secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The old one.
    Offered,
    /// The new one.
    Switched,
}

/// The next secret, as it is found again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The secret, and who started.
    pub offer: Offer,
    /// How far this node is.
    pub phase: Phase,
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The next secret beside the one that there is, in place of what was written of it before.
    Next(Next),
    /// The next secret becomes the only one.
    Only(Offer),
    /// The next secret is given up.
    Old,
}

/// It couldn't be written; the shell has said why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept;

/// Why a rotation can't be started or aborted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// One is under way already.
    #[error(
        "a rotation is under way already, started on {started_by}: `netft status` says what it waits for; wait, or abort it there"
    )]
    UnderWay {
        /// Where it was started.
        started_by: String,
    },
    /// There is none.
    #[error("no rotation is under way: there is nothing to abort")]
    None,
    /// Others may have switched by now.
    #[error(
        "the rotation was started on {started_by}, and only there it can be aborted: run `netft key rotate --abort` on {started_by}. \
         If that node is gone for good, remove it from the configuration of all others: they finish the rotation then"
    )]
    Elsewhere {
        /// Where it was started.
        started_by: String,
    },
    /// A node couldn't go along.
    #[error(
        "on {nodes}, netftd can't write another secret down, so nothing was started: let it write to the folder of \
         security.key_file there (under systemd with ReadWritePaths=), then restart or reload it; `netft events` there says more"
    )]
    Fixed {
        /// Their names.
        nodes: String,
    },
    /// A node knows of no other secret than its own.
    #[error(
        "on {nodes}, a release of netft runs that knows of no other secret than its own, so nothing was started: upgrade netft there first"
    )]
    Outdated {
        /// Their names.
        nodes: String,
    },
    /// This node has, or another one.
    #[error(
        "every node has had the new secret and it is signed with already: the rotation can only be finished now. \
         `netft status` says which nodes it waits for; one that is gone for good must be removed from the configuration"
    )]
    Switched,
}

/// A rotation, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationView {
    /// Name of the node where it was started.
    pub started_by: String,
    /// How far this node is.
    pub phase: Phase,
    /// Peers that must say something first.
    pub waits_for: Vec<String>,
    /// Names the new secret.
    pub secret: SecretId,
}

/// Where this node is in a rotation.
#[derive(Debug)]
pub struct Rotation {
    /// Written down.
    held: Option<Held>,
    /// Not known to be written yet.
    writing: Option<Keep>,
    /// The next try to write, offer, or end.
    retry_at_ns: Nanos,
    offer_at_ns: Nanos,
    end_at_ns: Nanos,
    /// Offered by who signs with it already: not to be given up.
    forward: bool,
}

/// What peers say of the next secret, together.
struct Survey {
    all_have: bool,
    some_lack: bool,
    all_lack: bool,
    some_sign: bool,
    all_sign: bool,
    /// They refuse the old one.
    all_ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    next: Next,
    id: SecretId,
    /// Hellos from that life of the node that started, up to this sequence, were made before it offered.
    offered: Option<(Life, u64)>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            held: None,
            writing: None,
            retry_at_ns: 0,
            offer_at_ns: Nanos::MAX,
            end_at_ns: Nanos::MAX,
            forward: false,
        }
    }
}

impl Rotation {
    /// When there is something to do.
    pub fn timeout_ns(&self) -> Nanos {
        if self.held.is_none() || self.writing.is_some() {
            return Nanos::MAX;
        }
        let step_ns = if self.retry_at_ns > 0 { self.retry_at_ns } else { self.end_at_ns };
        step_ns.min(self.offer_at_ns)
    }
}

impl Membership {
    /// Goes on with a rotation that an earlier daemon was in. Call once, right after [`Self::new`].
    pub fn resume_rotation(&mut self, next: Next) {
        self.hold(next, None);
    }

    /// Starts a rotation to a secret made from `random`, which must be fresh.
    pub fn rotate_secret(&mut self, random: [u8; 32]) -> Result<SecretId, RotationRefused> {
        if let Some(next) = self.next_secret() {
            return Err(RotationRefused::UnderWay { started_by: self.node_name(next.offer.started_by) });
        }
        let common = |session: &Session| self.config.versions.common(session.versions);
        let outdated = |session: &Session| common(session).is_some_and(|common| common < SECRETS_VERSION);
        if let Some(nodes) = self.peers_whose(outdated) {
            return Err(RotationRefused::Outdated { nodes });
        }
        if let Some(nodes) = self.peers_whose(|session| session.told.key_file == KeyFile::Fixed) {
            return Err(RotationRefused::Fixed { nodes });
        }
        let offer = Offer { secret: random, started_by: self.config.id };
        self.rotation.forward = false;
        self.keep(Keep::Next(Next { offer, phase: Phase::Offered }));
        Ok(self.keyring(&offer).id())
    }

    /// Gives a rotation up that was started here, while nobody signs with the new secret.
    pub fn abort_rotation(&mut self) -> Result<(), RotationRefused> {
        // One that isn't written yet hasn't begun.
        let next = self.rotation.held.and(self.next_secret()).ok_or(RotationRefused::None)?;
        let others = || self.rotation.held.is_some_and(|held| self.survey(&held).some_sign);
        if next.phase == Phase::Switched || self.rotation.forward || others() {
            return Err(RotationRefused::Switched);
        }
        if !self.is_own(&next) {
            return Err(RotationRefused::Elsewhere { started_by: self.node_name(next.offer.started_by) });
        }
        self.keep(Keep::Old);
        Ok(())
    }

    /// What [`MembershipCommand::KeepSecret`] asked for is done, or can't be.
    pub fn secret_kept(&mut self, now: Nanos, result: Result<(), NotKept>) {
        let Some(keep) = self.rotation.writing.take() else { return };
        if result.is_err() {
            self.rotation.retry_at_ns = now.saturating_add(RETRY_NS);
            return;
        }
        self.rotation.retry_at_ns = 0;
        let by = |next: &Next| self.node_name(next.offer.started_by);
        let event = match &keep {
            Keep::Next(next) if next.phase == Phase::Offered => {
                MembershipEvent::SecretOffered { by: by(next) }
            }
            Keep::Next(_) => MembershipEvent::SecretSwitched,
            Keep::Only(_) => MembershipEvent::SecretReplaced,
            Keep::Old => MembershipEvent::RotationAborted,
        };
        match keep {
            Keep::Next(next) => {
                let session = self.session_of(next.offer.started_by);
                let offered = session.map(|session| (session.life, session.offer_sequence));
                self.hold(next, offered);
                if next.phase == Phase::Switched {
                    let sessions = self.peers.values_mut().filter_map(|peer| peer.session.as_mut());
                    sessions.for_each(|session| session.exchange.rebind(now));
                }
            }
            Keep::Only(_) | Keep::Old => {
                self.rotation = Rotation::default();
                self.speaker.keyrings.other = None;
            }
        }
        self.events.push_back(event);
        self.hurry_all(now);
        self.rotate_on(now);
        self.speak(now);
    }

    /// The rotation that this node is in, if there is one.
    pub fn rotation(&self) -> Option<RotationView> {
        let held = self.rotation.held.as_ref()?;
        let new = self.speaker.keyrings.of(held.id)?;
        let old = self.speaker.keyrings.besides(held.id);
        let all_sign = self.survey(held).all_sign && self.is_own(&held.next);
        let ready = |session: &Session| match held.next.phase {
            Phase::Offered => session.has(new),
            Phase::Switched if all_sign => old.is_none_or(|old| session.lacks(old)),
            Phase::Switched => session.told.signs == held.id,
        };
        let lacks = self.peers.iter().filter(|(_, peer)| !peer.session.as_ref().is_some_and(ready));
        let mut waits_for: Vec<String> = lacks.map(|(name, _)| name.clone()).collect();
        let started_by = self.node_name(held.next.offer.started_by);
        if waits_for.is_empty() && held.next.phase == Phase::Offered && !self.leads(&held.next) {
            waits_for.push(started_by.clone());
        }
        Some(RotationView { started_by, phase: held.next.phase, waits_for, secret: held.id })
    }

    /// Whether another secret could be written down here: peers start no rotation while it couldn't.
    pub fn set_key_file(&mut self, now: Nanos, key_file: KeyFile) {
        if self.speaker.key_file != key_file {
            self.speaker.key_file = key_file;
            self.hurry_all(now);
            self.speak(now);
        }
    }

    /// Names the secret that this node signs with.
    pub fn secret(&self) -> SecretId {
        self.speaker.keyrings.primary.id()
    }

    /// A peer offers the next secret.
    pub(super) fn take_offer(&mut self, now: Nanos, name: &str, offer: &Offer) -> Result<(), HelloReject> {
        let id = self.keyring(offer).id();
        let known = self.speaker.keyrings.of(id).is_some();
        if known {
            // It hasn't heard yet.
            if let Some(peer) = self.peers.get_mut(name) {
                peer.routes.values_mut().for_each(|route| route.hurry(now));
            }
            return Ok(());
        }
        if let Some(next) = self.next_secret() {
            if next.offer == *offer {
                return Ok(());
            }
            let [by, other] = [next.offer.started_by, offer.started_by].map(|id| self.node_name(id));
            self.tell(now, MembershipEvent::RotationContested { by, other });
            return Err(HelloReject::StepUnexpected);
        }
        // Others than where it was started offer it only once there is no way back.
        let from = self.peers.get(name).and_then(super::peer::Peer::id);
        self.rotation.forward = from != Some(offer.started_by);
        self.keep(Keep::Next(Next { offer: *offer, phase: Phase::Offered }));
        Ok(())
    }

    /// Goes to the next phase if everybody is ready for it.
    pub(super) fn rotate_on(&mut self, now: Nanos) {
        let Some(held) = self.rotation.held.filter(|_| self.rotation.writing.is_none()) else { return };
        let survey = self.survey(&held);
        let offers = held.next.phase == Phase::Switched || self.leads(&held.next);
        if !offers || !survey.some_lack {
            self.rotation.offer_at_ns = Nanos::MAX;
        } else if self.rotation.offer_at_ns == Nanos::MAX {
            self.rotation.offer_at_ns = now;
        }
        let own = self.is_own(&held.next);
        let done = if own { survey.all_ended } else { survey.all_sign };
        if !done || held.next.phase != Phase::Switched {
            self.rotation.end_at_ns = Nanos::MAX;
        } else if self.rotation.end_at_ns == Nanos::MAX {
            self.rotation.end_at_ns = now.saturating_add(if own { 0 } else { GRACE_NS });
        }
        if self.rotation.retry_at_ns > now {
            return;
        }
        self.rotation.retry_at_ns = 0;
        match held.next.phase {
            Phase::Offered => {
                // What somebody offered as if there were no way back, and nobody else knows of, is a lie or an old story.
                let forward = survey.some_sign || (self.rotation.forward && !survey.all_lack);
                if survey.all_have && (survey.some_sign || self.leads(&held.next)) {
                    self.keep(Keep::Next(Next { phase: Phase::Switched, ..held.next }));
                } else if !forward
                    && let Some(session) = self.session_of(held.next.offer.started_by)
                    && self.speaker.keyrings.of(held.id).is_some_and(|new| session.lacks(new))
                    && held.offered.is_none_or(|(life, sequence)| {
                        session.life != life || session.told.sequence > sequence
                    })
                {
                    self.keep(Keep::Old);
                }
            }
            Phase::Switched if self.rotation.end_at_ns <= now => self.keep(Keep::Only(held.next.offer)),
            Phase::Switched => {}
        }
    }

    /// Offers the next secret to all who don't have it, if that is due.
    pub(super) fn offer_secret(&mut self, now: Nanos) {
        let Some(held) = self.rotation.held.filter(|_| self.rotation.offer_at_ns <= now) else { return };
        self.rotation.offer_at_ns = now.saturating_add(OFFER_EVERY_NS);
        let Some(new) = self.speaker.keyrings.of(held.id).cloned() else { return };
        for peer in self.peers.values() {
            if let Some(session) = peer.session.as_ref().filter(|session| !session.has(&new)) {
                self.speaker.offer(now, session, &peer.ways(), &held.next.offer);
            }
        }
    }

    /// Has the shell write, unless it does already.
    fn keep(&mut self, keep: Keep) {
        if self.rotation.writing.is_none() {
            self.rotation.writing = Some(keep);
            self.commands.push_back(MembershipCommand::KeepSecret(keep));
        }
    }

    /// What was written is in force.
    fn hold(&mut self, next: Next, offered: Option<(Life, u64)>) {
        let new = self.keyring(&next.offer);
        let id = new.id();
        let known = self.speaker.keyrings.of(id).is_some();
        if !known {
            self.speaker.keyrings.other = Some(new);
        }
        let signs = self.speaker.keyrings.primary.id() == id;
        if next.phase == Phase::Switched && !signs {
            self.speaker.keyrings.swap();
        }
        self.rotation.held = Some(Held { next, id, offered });
    }

    /// The secret that will be the next, also while it is being written down.
    fn next_secret(&self) -> Option<Next> {
        let written = self.rotation.held.map(|held| held.next);
        match self.rotation.writing {
            Some(Keep::Next(next)) => Some(next),
            _ => written,
        }
    }

    /// Names of peers, if it is true of any.
    fn peers_whose(&self, is_so: impl Fn(&Session) -> bool) -> Option<String> {
        let peers = self.peers.iter().filter(|(_, peer)| peer.session.as_ref().is_some_and(&is_so));
        let names: Vec<&str> = peers.map(|(name, _)| name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// What peers said last; of one without a session, nothing is known.
    fn survey(&self, held: &Held) -> Survey {
        let rings = &self.speaker.keyrings;
        let (new, old) = (rings.of(held.id), rings.besides(held.id));
        let has = |session: &Session| new.is_some_and(|new| session.has(new));
        let lacks = |session: &Session| new.is_none_or(|new| session.lacks(new));
        let signs = |session: &Session| session.told.signs == held.id;
        let ended = |session: &Session| signs(session) && old.is_none_or(|old| session.lacks(old));
        let sessions = || self.peers.values().map(|peer| peer.session.as_ref());
        Survey {
            all_have: sessions().all(|session| session.is_some_and(has)),
            some_lack: sessions().flatten().any(|session| !has(session)),
            all_lack: sessions().all(|session| session.is_some_and(lacks)),
            some_sign: sessions().flatten().any(signs),
            all_sign: sessions().all(|session| session.is_some_and(signs)),
            all_ended: sessions().all(|session| session.is_some_and(ended)),
        }
    }

    /// Whether it was started here.
    fn is_own(&self, next: &Next) -> bool {
        next.offer.started_by == self.config.id
    }

    /// Whether it is up to this node to go on: where the rotation was started, or everywhere if that node was removed.
    fn leads(&self, next: &Next) -> bool {
        self.is_own(next) || !self.is_peer(next.offer.started_by)
    }

    fn is_peer(&self, id: NodeId) -> bool {
        self.peers.values().any(|peer| peer.id() == Some(id))
    }

    fn session_of(&self, id: NodeId) -> Option<&Session> {
        let mut sessions = self.peers.values().filter_map(|peer| peer.session.as_ref());
        sessions.find(|session| session.life.id == id)
    }

    fn node_name(&self, id: NodeId) -> String {
        if id == self.config.id {
            return self.config.name.clone();
        }
        self.name_of(id).unwrap_or_else(|| format!("node {id}"))
    }

    fn keyring(&self, offer: &Offer) -> Keyring {
        Keyring::new(&Secret::of_random(&offer.secret), self.config.cluster_id)
    }
}

//! The session of one pair of nodes: how both agree on keys, which keys are good now, and when new ones are due.
//!
//! The node with the lower id starts handshakes, so two that start at once can't cross. A handshake is one message and its
//! answer. Who starts has the keys with the answer and sends with them from then on; who answers accepts them from then on, and
//! sends with them once a hello says that the other end does. So whatever one end sends, the other has accepted before:
//!
//! ```text
//! starts                                  answers
//!   sends with A    ── step 1 ──▶           sends with A
//!                   ◀── step 2 ──           accepts A and B, sends with A
//!   sends with B    ── hello, B ──▶         sends with B, accepts A for some time
//!   accepts A       ◀── hello, B ──
//!   for some time
//! ```
//!
//! Everything is repeated until the other end's hellos say that it is no longer needed. Old keys stay good until some time
//! after both ends have told that they send with the new ones.

pub(crate) mod noise;
mod offer;
#[cfg(test)]
mod tests;

use crate::bucket::Bucket;
use crate::dice::Dice;
use crate::keys::{Directions, Life, SessionKeys};
use crate::types::{Level, Nanos, NodeId};
use netft_common::map::SlotConfig;
use netft_common::wire::{NOISE_LEN, SECRET_LEN};
use noise::{Initiation, Response, Secrets};
pub use offer::{OFFER, Offer};

/// First and longest interval between repetitions of step 1, in nanoseconds.
const REPEAT_NS: (Nanos, Nanos) = (50_000_000, 1_000_000_000);
/// How long old keys stay good after both ends send with new ones: longer than a datagram is under way.
const GRACE_NS: Nanos = 2_000_000_000;
/// How long they do at most.
const PREVIOUS_NS: Nanos = 60_000_000_000;
/// How long the other end may go on to say that it has no keys, after it has answered a handshake.
const CONFIRM_NS: Nanos = 1_000_000_000;
/// Between two handshakes that somebody wishes, at least.
const SPACING_NS: Nanos = 1_000_000_000;

/// What a node does in a pair's handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It starts them.
    Starts,
    /// It answers them.
    Answers,
}

impl Part {
    /// `own`'s part with `peer`.
    pub fn of(own: NodeId, peer: NodeId) -> Self {
        if own < peer { Self::Starts } else { Self::Answers }
    }
}

/// What a handshake is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Agreement<'a> {
    /// The cluster.
    pub cluster_id: u32,
    /// From the cluster secret ([`crate::keys::Keyring::session_psk`]).
    pub psk: &'a [u8; 32],
    /// This node.
    pub own: Life,
    /// The other.
    pub peer: Life,
    /// The wire version that the handshake speaks, and that its keys are for.
    pub version: u8,
}

impl Agreement<'_> {
    fn prologue(&self, part: Part, number: u64) -> Vec<u8> {
        let (starts, answers) = match part {
            Part::Starts => (self.own, self.peer),
            Part::Answers => (self.peer, self.own),
        };
        let mut prologue = b"netft session ".to_vec();
        prologue.push(self.version);
        prologue.extend(self.cluster_id.to_le_bytes());
        for life in [starts, answers] {
            prologue.extend(life.id.get().to_le_bytes());
            prologue.extend(life.boot_nonce);
        }
        prologue.extend(number.to_le_bytes());
        prologue
    }

    fn keys(&self, secrets: &Secrets, level: Directions<Level>) -> SessionKeys {
        let keys = SessionKeys::derive(secrets, self.own.id, self.peer.id, level);
        SessionKeys { version: self.version, ..keys }
    }
}

/// What goes to the other end, or came from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The wire version that it is in.
    pub version: u8,
    /// Of the handshake.
    pub number: u64,
    /// 1 or 2; 3 is an [`Offer`], which is no part of a handshake.
    pub step: u32,
    /// The Noise message.
    pub noise: [u8; NOISE_LEN],
}

/// Why a step changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepRefused {
    /// Nobody here waits for it: the other end's part, another handshake, or keys that can't be told from older ones.
    #[error("the handshake step was not expected")]
    Unexpected,
    /// Not newer than what was seen.
    #[error("the handshake step is old")]
    Old,
    /// It doesn't verify.
    #[error("the handshake step doesn't verify")]
    Noise,
    /// Too many, or repeated too often.
    #[error("too many handshakes")]
    Busy,
}

/// What a hello of the other end's changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that others need to know.
    Nothing,
    /// We send with new keys from now on.
    Switched,
}

/// Whether the other end asks for new keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It doesn't.
    None,
    /// It does.
    Renew,
}

/// Keys besides those that we send with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Beside {
    None,
    /// Agreed on, but not known to be in use at the other end.
    Pending(SessionKeys),
    /// Those before.
    Previous(SessionKeys),
}

/// The keys that are good now, for the data threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveKeys {
    /// What we send with; `None` = there is no session yet.
    pub current: Option<SessionKeys>,
    /// What is accepted as well.
    pub other: Option<SessionKeys>,
}

#[derive(Debug)]
struct Attempt {
    version: u8,
    number: u64,
    initiation: Initiation,
    next_ns: Nanos,
    interval_ns: Nanos,
    /// Whether it was repeated at once because the other end had just come to know us.
    prompted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    sequence: u64,
    step: Step,
}

/// One pair's handshakes and keys, for one pair of lives. Mutate, then look at [`Self::shape`] and [`Self::live`].
#[derive(Debug)]
pub struct Exchange {
    part: Part,
    current: Option<SessionKeys>,
    beside: Beside,
    /// When whatever isn't sent with stops to be good.
    retire_at_ns: Nanos,
    /// Since when we send with the current keys.
    since_ns: Nanos,
    /// Sequence of the step that brought the current keys: hellos before it say nothing about them.
    since_sequence: u64,
    /// Whether the other end has told that it sends with the current keys.
    settled: bool,
    /// When new keys are due; who answers only wishes for them.
    due_ns: Nanos,
    /// How long keys are used.
    period_ns: Nanos,
    /// The level that we send at, from the next keys on.
    level: Level,
    wishes: bool,
    attempt: Option<Attempt>,
    answered: Option<Answered>,
    /// Steps of the other end's must be newer than the hello that began this: none is from before.
    opened_sequence: u64,
    /// Handshakes that may be computed, and answers that may be repeated.
    effort: Bucket,
    repeats: Bucket,
    renewals: u64,
}

impl Exchange {
    /// `opened_sequence` is that of the fresh hello by which the other end introduced itself; keys are renewed after
    /// `period_ns`, and data is sent at `level`.
    pub fn new(now: Nanos, part: Part, opened_sequence: u64, period_ns: Nanos, level: Level) -> Self {
        Self {
            part,
            current: None,
            beside: Beside::None,
            retire_at_ns: Nanos::MAX,
            since_ns: now,
            since_sequence: opened_sequence,
            settled: false,
            due_ns: now,
            period_ns,
            level,
            wishes: false,
            attempt: None,
            answered: None,
            opened_sequence,
            effort: Bucket::new(now, 8, 250_000_000),
            repeats: Bucket::new(now, 32, 10_000_000),
            renewals: 0,
        }
    }

    /// Epoch of the keys that we send with, 0 = there are none: what our hellos say.
    pub fn epoch(&self) -> u32 {
        self.current.as_ref().map_or(0, |keys| keys.epoch)
    }

    /// Since when we send with them.
    pub fn since_ns(&self) -> Option<Nanos> {
        self.current.as_ref().map(|_| self.since_ns)
    }

    /// The wire version of the keys that we send with.
    pub fn version(&self) -> Option<u8> {
        self.current.as_ref().map(|keys| keys.version)
    }

    /// How often keys were replaced.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    /// Whether the other end must hear soon which keys we send with.
    pub fn is_telling(&self) -> bool {
        self.part == Part::Starts && self.current.is_some() && !self.settled
    }

    /// Whether hellos ask the other end for new keys.
    pub fn wish(&self) -> Wish {
        if self.wishes && self.part == Part::Answers { Wish::Renew } else { Wish::None }
    }

    /// Another period for keys.
    pub fn set_period(&mut self, period_ns: Nanos) {
        self.period_ns = period_ns;
        if self.current.is_some() && !self.wishes {
            self.due_ns = self.since_ns.saturating_add(period_ns);
        }
    }

    /// Another level to send at: it comes with new keys, so that the other end knows what to expect of each message.
    pub fn set_level(&mut self, now: Nanos, level: Level) {
        if self.level != level {
            self.level = level;
            // A handshake under way tells the old one.
            self.rebind(now);
        }
    }

    /// The levels of the current keys.
    pub fn levels(&self) -> Option<Directions<Level>> {
        self.current.as_ref().map(|keys| keys.level)
    }

    fn secret(&self) -> [u8; SECRET_LEN] {
        let mut secret = [0; SECRET_LEN];
        secret[0] = self.level.to_wire();
        secret
    }

    /// The levels that keys have when the other end tells `theirs`.
    fn agreed(&self, theirs: &[u8; SECRET_LEN]) -> Result<Directions<Level>, StepRefused> {
        let receive = Level::from_wire(theirs[0]).ok_or(StepRefused::Unexpected)?;
        Ok(Directions { send: self.level, receive })
    }

    /// New keys are wanted, as soon as may be.
    pub fn renew(&mut self, now: Nanos) {
        self.wishes = true;
        self.due_ns = self.due_ns.min(now.max(self.since_ns.saturating_add(SPACING_NS)));
    }

    /// Handshakes are bound to another cluster secret from now on: one under way is started again.
    pub fn rebind(&mut self, now: Nanos) {
        self.attempt = None;
        self.renew(now);
    }

    /// When [`Self::poll`] or [`Self::expire`] has something to do.
    pub fn timeout_ns(&self) -> Nanos {
        let step = match (self.part, &self.attempt) {
            (Part::Answers, _) => Nanos::MAX,
            (Part::Starts, Some(attempt)) => attempt.next_ns,
            (Part::Starts, None) => self.due_ns,
        };
        step.min(self.retire_at_ns)
    }

    /// Step 1, when it is due for the first time or again. Goes out on every way to the peer.
    pub fn poll(&mut self, now: Nanos, agreement: &Agreement<'_>, dice: &mut Dice) -> Option<Step> {
        if self.part == Part::Answers {
            return None;
        }
        if self.attempt.as_ref().is_some_and(|attempt| attempt.version != agreement.version) {
            // The other end has been replaced by another release meanwhile.
            self.attempt = None;
        }
        if self.attempt.is_none() && self.due_ns <= now {
            let number = dice.number();
            let prologue = agreement.prologue(self.part, number);
            let initiation = Initiation::new(agreement.psk, &prologue, &self.secret(), dice);
            let Ok(initiation) = initiation else {
                self.due_ns = now.saturating_add(SPACING_NS);
                return None;
            };
            self.attempt = Some(Attempt {
                version: agreement.version,
                number,
                initiation,
                next_ns: now,
                interval_ns: REPEAT_NS.0,
                prompted: false,
            });
        }
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.next_ns <= now)?;
        attempt.next_ns = now.saturating_add(attempt.interval_ns);
        attempt.interval_ns = attempt.interval_ns.saturating_mul(2).min(REPEAT_NS.1);
        Some(Step {
            version: attempt.version,
            number: attempt.number,
            step: 1,
            noise: attempt.initiation.message,
        })
    }

    /// An authentic step of the other end's arrived. What comes back goes to where it came from.
    pub fn take(
        &mut self,
        now: Nanos,
        sequence: u64,
        step: &Step,
        agreement: &Agreement<'_>,
        dice: &mut Dice,
    ) -> Result<Option<Step>, StepRefused> {
        match (self.part, step.step) {
            (Part::Answers, 1) => self.answer(now, sequence, step, agreement, dice).map(Some),
            (Part::Starts, 2) => self.finish(now, sequence, step, agreement).map(|()| None),
            _ => Err(StepRefused::Unexpected),
        }
    }

    fn answer(
        &mut self,
        now: Nanos,
        sequence: u64,
        step: &Step,
        agreement: &Agreement<'_>,
        dice: &mut Dice,
    ) -> Result<Step, StepRefused> {
        if let Some(answered) = self.answered.filter(|answered| answered.step.number == step.number) {
            return if self.repeats.take(now) { Ok(answered.step) } else { Err(StepRefused::Busy) };
        }
        let newest = self.answered.map_or(self.opened_sequence, |answered| answered.sequence);
        if sequence <= newest {
            return Err(StepRefused::Old);
        }
        if !self.effort.take(now) {
            return Err(StepRefused::Busy);
        }
        let prologue = agreement.prologue(self.part, step.number);
        let response = noise::respond(agreement.psk, &prologue, &self.secret(), dice, &step.noise);
        let Response { answer, secrets, theirs } = response.map_err(|_| StepRefused::Noise)?;
        let keys = agreement.keys(&secrets, self.agreed(&theirs)?);
        if self.knows(keys.epoch) {
            return Err(StepRefused::Unexpected);
        }
        let answer = Step { version: step.version, number: step.number, step: 2, noise: answer };
        self.answered = Some(Answered { sequence, step: answer });
        self.since_sequence = sequence;
        self.beside = Beside::Pending(keys);
        Ok(answer)
    }

    fn finish(
        &mut self,
        now: Nanos,
        sequence: u64,
        step: &Step,
        agreement: &Agreement<'_>,
    ) -> Result<(), StepRefused> {
        let fits = |attempt: &&mut Attempt| (attempt.number, attempt.version) == (step.number, step.version);
        let attempt = self.attempt.as_mut().filter(fits);
        let attempt = attempt.ok_or(StepRefused::Unexpected)?;
        let (secrets, theirs) = attempt.initiation.finish(&step.noise).map_err(|_| StepRefused::Noise)?;
        self.attempt = None;
        let keys = agreement.keys(&secrets, self.agreed(&theirs)?);
        if self.knows(keys.epoch) {
            // One in four thousand million: the next handshake gives another epoch.
            return Err(StepRefused::Unexpected);
        }
        self.since_sequence = sequence;
        self.switch(now, keys);
        Ok(())
    }

    /// The other end's hello says with which epoch it sends, and whether it wishes for another.
    pub fn hear(&mut self, now: Nanos, sequence: u64, epoch: u32, wish: Wish) -> Heard {
        if sequence < self.since_sequence {
            return Heard::Nothing;
        }
        if wish == Wish::Renew {
            self.renew(now);
        }
        if let Beside::Pending(keys) = &self.beside
            && keys.epoch == epoch
        {
            let keys = *keys;
            self.switch(now, keys);
            self.settle(now);
            return Heard::Switched;
        }
        if epoch != 0 && epoch == self.epoch() {
            if !self.settled {
                self.settle(now);
            }
            return Heard::Nothing;
        }
        if epoch == 0
            && let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.prompted)
        {
            // It knows us now; step 1 may have come too early.
            (attempt.prompted, attempt.next_ns) = (true, now);
        }
        // The other end hasn't heard yet that we send with new keys; or it has lost them, in a restart.
        let behind = self.knows(epoch);
        let patient = !self.settled && now.saturating_sub(self.since_ns) < CONFIRM_NS;
        if !behind && !patient && self.current.is_some() {
            self.due_ns = self.due_ns.min(now);
        }
        Heard::Nothing
    }

    /// Ends what is good no longer. `true` if something was.
    pub fn expire(&mut self, now: Nanos) -> bool {
        if self.retire_at_ns > now {
            return false;
        }
        self.retire_at_ns = Nanos::MAX;
        if matches!(self.beside, Beside::Previous(_)) {
            self.beside = Beside::None;
        }
        true
    }

    fn knows(&self, epoch: u32) -> bool {
        let beside = self.beside().is_some_and(|keys| keys.epoch == epoch);
        beside || self.current.as_ref().is_some_and(|keys| keys.epoch == epoch)
    }

    fn beside(&self) -> Option<&SessionKeys> {
        match &self.beside {
            Beside::None => None,
            Beside::Pending(keys) | Beside::Previous(keys) => Some(keys),
        }
    }

    fn switch(&mut self, now: Nanos, keys: SessionKeys) {
        // The level was changed after the other end had been told the one before.
        let outdated = keys.level.send != self.level;
        let before = self.current.replace(keys);
        self.renewals += u64::from(before.is_some());
        self.beside = before.map_or(Beside::None, Beside::Previous);
        self.retire_at_ns = now.saturating_add(PREVIOUS_NS);
        (self.since_ns, self.settled, self.wishes) = (now, false, outdated);
        self.due_ns = now.saturating_add(if outdated { SPACING_NS } else { self.period_ns });
    }

    fn settle(&mut self, now: Nanos) {
        self.settled = true;
        self.retire_at_ns = self.retire_at_ns.min(now.saturating_add(GRACE_NS));
    }

    /// Brings a route's keys up to date. What an earlier daemon left in it stays good until new keys are in use.
    pub fn shape(&self, config: &mut SlotConfig) {
        if let Some(current) = &self.current {
            config.admit(current.heartbeat_set());
            config.send_with(current.epoch);
        }
        match self.beside() {
            Some(keys) => config.admit(keys.heartbeat_set()),
            None if self.current.is_some() && self.retire_at_ns == Nanos::MAX => config.retire(),
            None => {}
        }
    }

    /// The keys that are good now.
    pub fn live(&self) -> LiveKeys {
        LiveKeys { current: self.current, other: self.beside().copied() }
    }
}

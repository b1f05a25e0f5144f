//! Two ends of a pair, and what comes between them.

use super::*;

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MS;
const PERIOD_NS: Nanos = 600 * SECOND;

/// One node of the pair.
struct End {
    exchange: Exchange,
    own: Life,
    peer: Life,
    psk: [u8; 32],
    dice: Dice,
    config: SlotConfig,
    sequence: u64,
}

impl End {
    fn new(now: Nanos, own: Life, peer: Life, seed: u8) -> Self {
        Self {
            exchange: Exchange::new(now, Part::of(own.id, peer.id), 0, PERIOD_NS, Level::Signed),
            own,
            peer,
            psk: [9; 32],
            dice: Dice::new([seed; 32]),
            config: SlotConfig::default(),
            sequence: 0,
        }
    }

    fn poll(&mut self, now: Nanos) -> Option<Step> {
        let agreement =
            Agreement { cluster_id: 7, psk: &self.psk, own: self.own, peer: self.peer, version: 1 };
        self.exchange.poll(now, &agreement, &mut self.dice)
    }

    fn take(&mut self, now: Nanos, step: &Step) -> Result<Option<Step>, StepRefused> {
        self.sequence += 1;
        self.take_old(now, self.sequence, step)
    }

    fn take_old(&mut self, now: Nanos, sequence: u64, step: &Step) -> Result<Option<Step>, StepRefused> {
        let agreement =
            Agreement { cluster_id: 7, psk: &self.psk, own: self.own, peer: self.peer, version: 1 };
        let result = self.exchange.take(now, sequence, step, &agreement, &mut self.dice);
        self.exchange.shape(&mut self.config);
        result
    }

    /// A hello of the other end's arrives.
    fn hear(&mut self, now: Nanos, other: &End) -> Heard {
        self.sequence += 1;
        let heard = self.exchange.hear(now, self.sequence, other.exchange.epoch(), other.exchange.wish());
        self.exchange.shape(&mut self.config);
        heard
    }

    fn expire(&mut self, now: Nanos) -> bool {
        let expired = self.exchange.expire(now);
        self.exchange.shape(&mut self.config);
        expired
    }

    fn sends(&self) -> u32 {
        self.config.sending().map_or(0, |keys| keys.epoch)
    }
}

fn life(id: u16) -> Life {
    Life { id: NodeId::new(id).unwrap(), boot_nonce: [id.to_le_bytes()[0]; 16] }
}

fn pair(now: Nanos) -> (End, End) {
    (End::new(now, life(1), life(2), 1), End::new(now, life(2), life(1), 2))
}

/// What one sends, the other accepts, with the same keys.
fn accepts(one: &End, other: &End) {
    for (from, to) in [(one, other), (other, one)] {
        let Some(keys) = from.config.sending() else { continue };
        let theirs = to.config.keys_of(keys.epoch).expect("accepted");
        assert_eq!((keys.send_key, keys.receive_key), (theirs.receive_key, theirs.send_key));
    }
    for (from, to) in
        [(one.exchange.live(), other.exchange.live()), (other.exchange.live(), one.exchange.live())]
    {
        let Some(keys) = from.current else { continue };
        let theirs = [to.current, to.other].into_iter().flatten().find(|live| live.epoch == keys.epoch);
        assert_eq!(theirs.expect("accepted").data.receive, keys.data.send);
    }
}

/// A handshake without disturbance.
fn agree(now: Nanos, one: &mut End, other: &mut End) {
    let first = one.poll(now).expect("due");
    accepts(one, other);
    let second = other.take(now, &first).unwrap().expect("answered");
    accepts(one, other);
    assert_eq!(one.take(now, &second), Ok(None));
    accepts(one, other);
    assert_eq!(other.hear(now, one), Heard::Switched);
    accepts(one, other);
    assert_eq!(one.hear(now, other), Heard::Nothing);
    assert!(one.sends() != 0 && one.sends() == other.sends());
}

#[test]
fn both_ends_agree_and_at_every_moment_accept_what_the_other_sends() {
    let (mut one, mut other) = pair(0);
    agree(0, &mut one, &mut other);
    let first = one.sends();
    let mut now = PERIOD_NS;
    assert_eq!(one.exchange.timeout_ns(), GRACE_NS, "nothing else to do but to forget");
    assert!(one.expire(GRACE_NS) && other.expire(GRACE_NS));
    assert_eq!(one.exchange.timeout_ns(), now);
    agree(now, &mut one, &mut other);
    assert_ne!(one.sends(), first);
    assert!(one.config.keys_of(first).is_some() && other.config.keys_of(first).is_some());
    now += GRACE_NS;
    assert!(one.expire(now) && other.expire(now));
    assert!(one.config.keys_of(first).is_none() && other.config.keys_of(first).is_none());
    assert_eq!((one.exchange.live().other, other.exchange.live().other), (None, None));
    assert_eq!((one.exchange.renewals(), other.exchange.renewals()), (1, 1));
}

#[test]
fn only_the_node_with_the_lower_id_starts() {
    let (mut one, mut other) = pair(0);
    assert_eq!(other.poll(0), None);
    assert_eq!(other.exchange.timeout_ns(), Nanos::MAX);
    let step = one.poll(0).unwrap();
    assert_eq!(one.take(0, &step), Err(StepRefused::Unexpected), "reflected");
    assert_eq!(other.take(0, &Step { step: 2, ..step }), Err(StepRefused::Unexpected));
}

#[test]
fn step_1_is_repeated_with_growing_intervals_and_answered_alike() {
    let (mut one, mut other) = pair(0);
    let first = one.poll(0).unwrap();
    let answer = other.take(0, &first).unwrap();
    let mut times = Vec::new();
    while times.len() < 8 {
        let now = one.exchange.timeout_ns();
        let again = one.poll(now).unwrap();
        assert_eq!((again, one.poll(now)), (first, None));
        assert_eq!(other.take(now, &again).unwrap(), answer);
        times.push(now);
    }
    assert_eq!(times[..3], [50 * MS, 150 * MS, 350 * MS]);
    assert_eq!(times[7] - times[6], SECOND);
    assert_eq!(one.take(10 * SECOND, &answer.unwrap()), Ok(None));
    accepts(&one, &other);
}

#[test]
fn steps_from_before_and_repeated_answers_change_nothing() {
    let (mut one, mut other) = pair(0);
    other.exchange = Exchange::new(0, Part::Answers, 100, PERIOD_NS, Level::Signed);
    let step = one.poll(0).unwrap();
    assert_eq!(other.take_old(0, 100, &step), Err(StepRefused::Old), "recorded before the introduction");
    let answer = other.take_old(0, 101, &step).unwrap().unwrap();
    one.take(0, &answer).unwrap();
    let sends = one.sends();
    assert_eq!(one.take(0, &answer), Err(StepRefused::Unexpected));
    one.exchange.renew(0);
    let next = one.poll(SPACING_NS).unwrap();
    assert_eq!(other.take_old(0, 101, &next), Err(StepRefused::Old));
    assert!(other.take_old(0, 102, &next).is_ok());
    assert_eq!(one.sends(), sends);
}

#[test]
fn another_secret_life_cluster_or_number_does_not_verify() {
    let (mut one, mut other) = pair(0);
    let step = one.poll(0).unwrap();
    let refused = |change: fn(&mut End)| {
        let mut end = End::new(0, life(2), life(1), 2);
        change(&mut end);
        assert_eq!(end.take(0, &step), Err(StepRefused::Noise));
        assert_eq!(end.config, SlotConfig::default());
    };
    refused(|end| end.psk = [8; 32]);
    refused(|end| end.own.boot_nonce = [8; 16]);
    refused(|end| end.peer.boot_nonce = [8; 16]);
    let forged = Step { number: step.number ^ 1, ..step };
    assert_eq!(other.take(0, &forged), Err(StepRefused::Noise));
    let agreement = Agreement { cluster_id: 8, psk: &[9; 32], own: life(2), peer: life(1), version: 1 };
    let mut dice = Dice::new([2; 32]);
    assert_eq!(other.exchange.take(0, 9, &step, &agreement, &mut dice), Err(StepRefused::Noise));
    assert!(other.take(0, &step).is_ok());
}

#[test]
fn no_changed_bit_verifies_and_the_right_answer_still_does() {
    let (mut one, _) = pair(0);
    let step = one.poll(0).unwrap();
    for bit in 0..NOISE_LEN * 8 {
        let mut changed = step;
        changed.noise[bit / 8] ^= 1 << (bit % 8);
        let mut other = End::new(0, life(2), life(1), 2);
        // X25519 ignores the highest bit of a key (RFC 7748), the hash of the handshake doesn't.
        assert_eq!(other.take(0, &changed), Err(StepRefused::Noise), "bit {bit}");
    }
    let mut other = End::new(0, life(2), life(1), 2);
    let answer = other.take(0, &step).unwrap().unwrap();
    for bit in 0..NOISE_LEN * 8 {
        let mut changed = answer;
        changed.noise[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(one.take(0, &changed), Err(StepRefused::Noise), "bit {bit}");
        assert_eq!(one.sends(), 0);
    }
    assert_eq!(one.take(0, &answer), Ok(None));
    accepts(&one, &other);
}

#[test]
fn a_lost_answer_or_hello_only_delays() {
    let (mut one, mut other) = pair(0);
    agree(0, &mut one, &mut other);
    let old = one.sends();
    let now = PERIOD_NS;
    let step = one.poll(now).unwrap();
    // The answer is lost: both go on with the old keys for as long as it takes.
    other.take(now, &step).unwrap();
    assert_eq!((one.sends(), other.sends()), (old, old));
    one.expire(now + 10 * SECOND);
    other.expire(now + 10 * SECOND);
    accepts(&one, &other);
    let again = one.poll(now + 10 * SECOND).unwrap();
    let answer = other.take(now + 10 * SECOND, &again).unwrap().unwrap();
    one.take(now + 10 * SECOND, &answer).unwrap();
    // Its hellos are lost: the other end still sends with the old keys, which stay good.
    assert!(one.exchange.is_telling());
    for second in 11..60 {
        one.expire(now + second * SECOND);
        other.expire(now + second * SECOND);
        one.hear(now + second * SECOND, &other);
        assert_eq!(one.poll(now + second * SECOND), None, "who is only behind needs no other keys");
        accepts(&one, &other);
    }
    assert_eq!(other.hear(now + 60 * SECOND, &one), Heard::Switched);
    one.hear(now + 60 * SECOND, &other);
    assert!(!one.exchange.is_telling());
    accepts(&one, &other);
}

#[test]
fn either_end_may_lose_its_memory_and_goes_on_with_what_the_maps_hold() {
    for restarts in [1, 2] {
        let (mut one, mut other) = pair(0);
        agree(0, &mut one, &mut other);
        let (one_left, other_left) = (one.config, other.config);
        if restarts == 1 {
            one = End::new(SECOND, life(1), life(2), 3);
            one.config = one_left;
        } else {
            let sequence = other.sequence;
            other = End::new(SECOND, life(2), life(1), 3);
            (other.config, other.sequence) = (other_left, sequence);
        }
        assert!(one.sends() != 0 && one.sends() == other.sends());
        let old = one.sends();
        one.hear(SECOND, &other);
        other.hear(SECOND, &one);
        let step = one.poll(SECOND).expect("new keys are due at once");
        let answer = other.take(SECOND, &step).unwrap().unwrap();
        assert_eq!(other.sends(), old);
        assert!(one.config.keys_of(old).is_some() && other.config.keys_of(old).is_some());
        one.take(SECOND, &answer).unwrap();
        assert!(other.config.keys_of(one.sends()).is_some() && one.config.keys_of(other.sends()).is_some());
        assert_eq!(other.hear(SECOND, &one), Heard::Switched);
        one.hear(SECOND, &other);
        accepts(&one, &other);
        let now = SECOND + GRACE_NS;
        assert!(one.expire(now) && other.expire(now));
        assert!(one.config.keys_of(old).is_none() && other.config.keys_of(old).is_none());
    }
}

#[test]
fn who_answers_may_wish_for_new_keys() {
    let (mut one, mut other) = pair(0);
    agree(0, &mut one, &mut other);
    other.exchange.renew(10 * SECOND);
    assert_eq!(other.exchange.wish(), Wish::Renew);
    one.hear(10 * SECOND, &other);
    agree(10 * SECOND, &mut one, &mut other);
    assert_eq!(other.exchange.wish(), Wish::None);
    // Not more than one a second, however often it is wished for.
    one.exchange.renew(10 * SECOND);
    assert_eq!(one.poll(10 * SECOND), None);
    assert!(one.poll(11 * SECOND).is_some());
}

#[test]
fn however_many_handshakes_come_few_are_computed() {
    let (_, mut other) = pair(0);
    let mut computed = 0;
    for seed in 0..200 {
        let mut one = End::new(0, life(1), life(2), seed);
        one.dice = Dice::new([seed ^ 0x55; 32]);
        let step = one.poll(0).unwrap();
        match other.take(0, &step) {
            Ok(_) => computed += 1,
            Err(refused) => assert_eq!(refused, StepRefused::Busy),
        }
    }
    assert_eq!(computed, 8);
    // Repetitions of the last are answered, not for ever.
    let answered = other.exchange.answered.unwrap();
    let again = Step { step: 1, ..answered.step };
    let answers = (0..200).filter(|_| other.take(0, &again).is_ok()).count();
    assert_eq!(answers, 32);
}

#[test]
fn a_shorter_period_takes_effect_for_keys_in_use() {
    let (mut one, mut other) = pair(0);
    agree(0, &mut one, &mut other);
    one.expire(GRACE_NS);
    one.exchange.set_period(5 * SECOND);
    assert_eq!(one.exchange.timeout_ns(), 5 * SECOND);
    agree(5 * SECOND, &mut one, &mut other);
}

#[test]
fn a_level_changes_with_the_keys_and_each_end_knows_the_others() {
    let (mut one, mut other) = pair(0);
    agree(0, &mut one, &mut other);
    let levels = |end: &End| end.exchange.levels().map(|level| (level.send, level.receive)).unwrap();
    assert_eq!(
        (levels(&one), levels(&other)),
        ((Level::Signed, Level::Signed), (Level::Signed, Level::Signed))
    );
    one.exchange.set_level(10 * SECOND, Level::Encrypted);
    assert_eq!(levels(&one), (Level::Signed, Level::Signed), "not before the other end knows");
    agree(10 * SECOND, &mut one, &mut other);
    assert_eq!(levels(&one), (Level::Encrypted, Level::Signed));
    assert_eq!(levels(&other), (Level::Signed, Level::Encrypted));
    // The end that answers asks for it.
    other.exchange.set_level(20 * SECOND, Level::Clear);
    assert_eq!(other.exchange.wish(), Wish::Renew);
    one.hear(20 * SECOND, &other);
    agree(20 * SECOND, &mut one, &mut other);
    assert_eq!(levels(&one), (Level::Encrypted, Level::Clear));
    // While a handshake is under way.
    one.exchange.renew(30 * SECOND);
    let step = one.poll(30 * SECOND).unwrap();
    let answer = other.take(30 * SECOND, &step).unwrap().unwrap();
    one.exchange.set_level(30 * SECOND, Level::Signed);
    assert_eq!(one.take(30 * SECOND, &answer), Err(StepRefused::Unexpected));
    agree(30 * SECOND, &mut one, &mut other);
    assert_eq!(
        (levels(&one), levels(&other)),
        ((Level::Signed, Level::Clear), (Level::Clear, Level::Signed))
    );
}

#[test]
fn a_level_that_changes_between_an_answer_and_its_repetition_comes_with_the_next_keys() {
    let (mut one, mut other) = pair(0);
    agree(0, &mut one, &mut other);
    one.exchange.renew(10 * SECOND);
    let step = one.poll(10 * SECOND).unwrap();
    let lost = other.take(10 * SECOND, &step).unwrap().unwrap();
    other.exchange.set_level(10 * SECOND, Level::Encrypted);
    let answer = other.take(10 * SECOND, &step).unwrap().unwrap();
    assert_eq!(lost, answer);
    one.take(10 * SECOND, &answer).unwrap();
    other.hear(10 * SECOND, &one);
    let sends = |end: &End| end.exchange.levels().map(|level| level.send).unwrap();
    assert_eq!((sends(&other), other.exchange.wish()), (Level::Signed, Wish::Renew), "not forgotten");
    one.hear(11 * SECOND, &other);
    agree(11 * SECOND, &mut one, &mut other);
    assert_eq!((sends(&other), other.exchange.wish()), (Level::Encrypted, Wish::None));
}

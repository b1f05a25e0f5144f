//! Each rule of the fence by itself, and all of them against arithmetic.

extern crate std;

use super::*;
use crate::map::{EngineState, NodeConfig};
use core::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

const MS: u64 = 1_000_000;
const NOW: u64 = 1_000 * MS;
const LEASE: u64 = 5 * MS;
const OWN: u16 = 1;

struct Memory {
    node: NodeConfig,
    engine: EngineState,
    fence: FenceState,
    evidence: Vec<AtomicU64>,
    vouch_index: Vec<AtomicU64>,
    vouched: Vec<AtomicU64>,
    owned: Vec<AtomicU64>,
}

impl Shared for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
}

impl FenceTables for Memory {
    fn fence(&self) -> Option<&FenceState> {
        Some(&self.fence)
    }
    fn evidence(&self, node: u16) -> Option<&AtomicU64> {
        self.evidence.get(usize::from(node))
    }
    fn vouch_index(&self, node: u16) -> Option<&AtomicU64> {
        self.vouch_index.get(usize::from(node))
    }
    fn vouched(&self, node: u16) -> Option<&AtomicU64> {
        self.vouched.get(usize::from(node))
    }
    fn owned(&self, vip: u32) -> Option<&AtomicU64> {
        self.owned.get(vip as usize)
    }
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Node 1 of voters 1, 2 and 3; it owns VIP 0 and has applied 10 entries; its engine ticks; nobody has vouched yet.
fn memory() -> Memory {
    let memory = Memory {
        node: NodeConfig { cluster_id: 9, node_id: OWN, ..NodeConfig::default() },
        engine: EngineState::default(),
        fence: FenceState::default(),
        evidence: words(256),
        vouch_index: words(256),
        vouched: words(256),
        owned: words(4),
    };
    memory.engine.tick_ns.store(NOW - MS, Relaxed);
    memory.fence.applied.store(10, Relaxed);
    memory.fence.quorum.store(quorum::MAJORITY, Relaxed);
    memory.fence.engine_timeout_ns.store(250 * MS, Relaxed);
    memory.owned[0].store(7, Relaxed);
    memory.vouch_index[usize::from(OWN)].store(vouch_word(0), Relaxed);
    set_voters(&memory, &[(1, 1), (2, 1), (3, 1)]);
    memory
}

fn set_voters(memory: &Memory, voters: &[(u16, u8)]) {
    for (index, word) in memory.fence.voters.iter().enumerate() {
        let voter =
            voters.get(index).map_or(0, |&(node, sets)| Voter { node, sets, lease_ns: LEASE }.to_word());
        word.store(voter, Relaxed);
    }
}

#[test]
fn it_is_open_for_the_owner_whom_a_majority_vouches_for() {
    let memory = memory();
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority));
    note_evidence(&memory, 2, 10, NOW - MS, NOW);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
    assert_eq!(check(&memory, 1, NOW), Err(Closed::NotOwner));
    assert_eq!(check(&memory, 9_999, NOW), Err(Closed::NotOwner));
}

#[test]
fn rule_1_nobody_vouches_for_a_node_that_has_not_applied_its_loss() {
    let memory = memory();
    note_evidence(&memory, 2, 11, NOW - MS, NOW);
    note_evidence(&memory, 3, UNSURE, NOW - MS, NOW);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority));
    memory.fence.applied.store(11, Relaxed);
    note_evidence(&memory, 2, 11, NOW - MS, NOW);
    assert_eq!(check(&memory, 0, NOW), Ok(()), "vouching resumes by itself for what the node keeps");
    memory.fence.applied.store(UNSURE, Relaxed);
    assert!(!vouch_counts(UNSURE, UNSURE), "who is unsure vouches for nobody, whatever they applied");
}

#[test]
fn rule_2_only_echoed_own_stamps_are_evidence() {
    let leg = |kind| {
        let mut leg: Heartbeat = bytemuck::Zeroable::zeroed();
        (leg.header.kind, leg.initiator_sent_ns, leg.responder_sent_ns) = (kind, 5, 6);
        evidence_stamp(&leg)
    };
    assert_eq!([1, 2, 3, 4, 16].map(leg), [None, Some(5), Some(6), None, None]);
}

#[test]
fn rule_2_the_newest_stamp_stays_and_one_from_the_future_is_none() {
    let memory = memory();
    note_evidence(&memory, 2, 0, NOW - MS, NOW);
    note_evidence(&memory, 2, 0, NOW - 2 * MS, NOW);
    assert_eq!(memory.evidence[2].load(Relaxed), NOW - MS);
    note_evidence(&memory, 2, 0, NOW + FUTURE_NS + 1, NOW);
    assert_eq!(memory.evidence[2].load(Relaxed), NOW - MS);
    memory.evidence[2].store(NOW + FUTURE_NS + 1, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority));
    memory.evidence[2].store(NOW + FUTURE_NS, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
}

#[test]
fn rule_3_it_closes_by_time_alone_at_the_end_of_the_lease() {
    let memory = memory();
    note_evidence(&memory, 2, 0, NOW, NOW);
    assert_eq!(check(&memory, 0, NOW + LEASE - 1), Ok(()));
    assert_eq!(check(&memory, 0, NOW + LEASE), Err(Closed::NoMajority));
}

#[test]
fn rule_3_it_closes_by_time_alone_at_the_end_of_the_engine_timeout() {
    let memory = memory();
    let tick_ns = memory.engine.tick_ns.load(Relaxed);
    note_evidence(&memory, 2, 0, tick_ns + 249 * MS, tick_ns + 249 * MS);
    assert_eq!(check(&memory, 0, tick_ns + 250 * MS - 1), Ok(()));
    assert_eq!(check(&memory, 0, tick_ns + 250 * MS), Err(Closed::EngineStalled));
    memory.engine.tick_ns.store(0, Relaxed);
    assert_eq!(check(&memory, 0, 1), Err(Closed::EngineStalled), "an engine that never ticked is none");
}

#[test]
fn rule_3_it_counts_itself_only_as_a_voter_whose_log_takes_nothing_from_it() {
    let memory = memory();
    note_evidence(&memory, 2, 0, NOW, NOW);
    memory.vouch_index[usize::from(OWN)].store(vouch_word(11), Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority));
    note_evidence(&memory, 3, 0, NOW, NOW);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
    set_voters(&memory, &[(2, 1), (3, 1), (4, 1), (5, 1)]);
    memory.vouch_index[usize::from(OWN)].store(vouch_word(0), Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority), "two of four, and it is none of them");
}

#[test]
fn rule_3_a_joint_configuration_needs_both_majorities() {
    let memory = memory();
    set_voters(&memory, &[(1, 1), (2, 0b11), (3, 0b11), (4, 0b10)]);
    note_evidence(&memory, 2, 0, NOW, NOW);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority), "1 and 2 of the first, only 2 of the second");
    note_evidence(&memory, 4, 0, NOW, NOW);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
}

#[test]
fn rule_6_only_what_concerns_this_host_is_judged() {
    let memory = memory();
    let (installed, elsewhere) =
        (VipEntry { vip: 0, flags: vip_flags::INSTALLED }, VipEntry { vip: 0, flags: 0 });
    let verdict = |entry, frame| judge(&memory, entry, frame, NOW).is_ok();
    assert!(!verdict(installed, Frame::ToOwnMac) && !verdict(installed, Frame::Local));
    assert!(!verdict(elsewhere, Frame::Local), "a claim for an address that isn't even here");
    assert!(verdict(elsewhere, Frame::ToOwnMac), "this host may route to the owner");
    assert!(verdict(installed, Frame::ToOtherMac) && verdict(installed, Frame::Transit));
}

#[test]
fn rule_8_vouching_is_noted_before_the_index_is_read() {
    struct Racing(Memory, std::cell::Cell<u64>);
    impl Shared for Racing {
        fn node(&self) -> Option<&NodeConfig> {
            self.0.node()
        }
        fn engine(&self) -> Option<&EngineState> {
            self.0.engine()
        }
    }
    impl FenceTables for Racing {
        fn fence(&self) -> Option<&FenceState> {
            self.0.fence()
        }
        fn evidence(&self, node: u16) -> Option<&AtomicU64> {
            self.0.evidence(node)
        }
        fn vouch_index(&self, node: u16) -> Option<&AtomicU64> {
            // Just before this is read, userspace stores an index and reads the stamps.
            self.0.vouch_index[usize::from(node)].store(vouch_word(11), Relaxed);
            self.1.set(self.0.vouched[usize::from(node)].load(Relaxed));
            self.0.vouch_index(node)
        }
        fn vouched(&self, node: u16) -> Option<&AtomicU64> {
            self.0.vouched(node)
        }
        fn owned(&self, vip: u32) -> Option<&AtomicU64> {
            self.0.owned(vip)
        }
    }
    let racing = Racing(memory(), std::cell::Cell::new(0));
    assert_eq!((vouch(&racing, 2, NOW), racing.1.get()), (11, NOW));
}

#[test]
fn rule_15_without_a_quorum_nobody_need_vouch() {
    let memory = memory();
    memory.fence.quorum.store(quorum::NONE, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
    assert_eq!(check(&memory, 1, NOW), Err(Closed::NotOwner));
    assert_eq!(check(&memory, 0, NOW + 250 * MS), Err(Closed::EngineStalled));
}

#[test]
fn it_is_closed_before_there_is_a_configuration_and_while_one_changes() {
    let memory = memory();
    note_evidence(&memory, 2, 0, NOW, NOW);
    memory.fence.generation.store(3, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NotReady));
    memory.fence.generation.store(4, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
    memory.fence.quorum.store(quorum::NOT_READY, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NotReady));
    set_voters(&memory, &[]);
    memory.fence.quorum.store(quorum::MAJORITY, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NoMajority), "nobody is no majority");
}

#[test]
fn a_writer_that_died_while_voters_changed_leaves_it_closed_until_the_next_one() {
    let memory = memory();
    note_evidence(&memory, 2, 0, NOW, NOW);
    memory.fence.generation.fetch_add(1, Relaxed);
    assert_eq!(check(&memory, 0, NOW), Err(Closed::NotReady));
    let mut voters = [0; MAX_VOTERS];
    voters[0] = Voter { node: 2, sets: 1, lease_ns: LEASE }.to_word();
    store_voters(&memory.fence, &voters, quorum::MAJORITY);
    assert_eq!(check(&memory, 0, NOW), Ok(()));
    assert_eq!(memory.fence.generation.load(Relaxed) % 2, 0);
}

#[test]
fn a_new_map_vouches_for_nobody() {
    assert_eq!(vouch_index(&Memory { vouch_index: words(256), ..memory() }, 2), UNSURE);
    assert_eq!((vouch_word(UNSURE), vouch_word(0)), (0, 1));
}

#[test]
fn a_voter_survives_its_word() {
    let voter = Voter { node: 255, sets: 0b10, lease_ns: Voter::LONGEST_LEASE_NS - 1 };
    assert_eq!(Voter::from_word(voter.to_word()), voter);
    let longer = Voter { lease_ns: u64::MAX, ..voter };
    assert_eq!(Voter::from_word(longer.to_word()), voter, "too long a lease takes no other field's bits");
}

/// Of each voter: id, sets, age of its stamp (0 = it never vouched).
type Drawn = Vec<(u16, u8, u64)>;

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn voters(&mut self) -> Drawn {
        let count = self.below(MAX_VOTERS as u64 + 1);
        (1u16..)
            .zip(0..count)
            .map(|(node, _)| (node, [1, 2, 3][self.index(3)], self.below(12 * MS)))
            .collect()
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }
}

/// So many draws of each property.
const DRAWS: u64 = 20_000;

fn drawn_memory(voters: &Drawn, own_loss: u64) -> Memory {
    let memory = memory();
    set_voters(&memory, &voters.iter().map(|&(node, sets, _)| (node, sets)).collect::<Vec<_>>());
    for &(node, _, age) in voters.iter().filter(|(_, _, age)| *age > 0) {
        memory.evidence[usize::from(node)].store(NOW - age, Relaxed);
    }
    memory.vouch_index[usize::from(OWN)].store(vouch_word(own_loss), Relaxed);
    memory
}

#[test]
fn it_agrees_with_arithmetic() {
    for seed in 0..DRAWS {
        let mut dice = Dice(seed);
        let (voters, own_loss) = (dice.voters(), 9 + dice.below(3));
        let memory = drawn_memory(&voters, own_loss);
        let vouches = |&&(node, _, age): &&(u16, u8, u64)| match node {
            OWN => own_loss <= 10,
            _ => age > 0 && age < LEASE,
        };
        let holds = |bit: u8| {
            let members = voters.iter().filter(|(_, sets, _)| sets & bit != 0);
            (members.clone().count(), members.filter(vouches).count())
        };
        let ((first, first_vouching), (second, second_vouching)) = (holds(1), holds(2));
        let expected = first_vouching * 2 > first && (second == 0 || second_vouching * 2 > second);
        assert_eq!(check(&memory, 0, NOW).is_ok(), expected, "seed {seed}");
    }
}

#[test]
fn time_alone_only_closes_it() {
    for seed in 0..DRAWS {
        let mut dice = Dice(seed);
        let (voters, earlier, later) = (dice.voters(), dice.below(10 * MS), dice.below(10 * MS));
        let memory = drawn_memory(&voters, 0);
        if check(&memory, 0, NOW + earlier).is_err() {
            assert!(check(&memory, 0, NOW + earlier + later).is_err(), "seed {seed}");
        }
    }
}

#[test]
fn two_nodes_with_disjoint_vouchers_are_never_both_let_through() {
    for seed in 0..DRAWS {
        let mut dice = Dice(seed);
        let count = 1 + dice.index(MAX_VOTERS);
        let side: Vec<bool> = (0..MAX_VOTERS).map(|_| dice.below(2) == 0).collect();
        let open = |mine: bool| {
            let voters = (10u16..).take(count).map(|node| (node, 1)).collect::<Vec<_>>();
            let memory = memory();
            set_voters(&memory, &voters);
            for (index, &(node, _)) in voters.iter().enumerate() {
                if side[index] == mine {
                    note_evidence(&memory, node, 0, NOW, NOW);
                }
            }
            check(&memory, 0, NOW).is_ok()
        };
        assert!(!(open(true) && open(false)), "seed {seed}");
    }
}

use super::*;
use crate::ownership::{Claim, Pair, PairCommand};
use std::collections::BTreeMap;

fn drain(pair: &mut Pair) -> Vec<PairCommand> {
    std::iter::from_fn(|| pair.poll_command()).collect()
}

fn claim(epoch: u64, node: u16) -> Claim {
    Claim { epoch, node: id(node) }
}

#[test]
fn rule_15_the_survivor_takes_the_next_epoch() {
    let mut pair = Pair::new(id(1), BTreeMap::from([(vip(0), claim(4, 2))]));
    pair.handle_peer_down([vip(0)]);
    assert_eq!(drain(&mut pair), [PairCommand::SetOwner(vip(0), 5), PairCommand::Tell(vip(0), claim(5, 1))]);
    pair.handle_peer_down([vip(0)]);
    assert_eq!(drain(&mut pair), [], "it has it");
}

#[test]
fn rule_15_on_contact_the_lower_claim_yields_before_anything_else() {
    let mut pair = Pair::new(id(1), BTreeMap::from([(vip(0), claim(4, 2))]));
    pair.handle_peer_down([vip(0)]);
    drain(&mut pair);
    pair.handle_peer_up();
    pair.handle_claim(vip(0), claim(5, 2));
    assert_eq!(drain(&mut pair)[0], PairCommand::ClearOwner(vip(0)), "equal epochs: the higher id stays");
    assert!(!pair.owns(vip(0)));
}

#[test]
fn rule_15_the_higher_claim_stays_and_says_so() {
    let mut pair = Pair::new(id(1), BTreeMap::from([(vip(0), claim(6, 1))]));
    pair.handle_claim(vip(0), claim(5, 2));
    assert_eq!(drain(&mut pair), [PairCommand::Tell(vip(0), claim(6, 1))]);
    assert!(pair.owns(vip(0)));
}

#[test]
fn rule_15_a_claim_that_was_not_carried_out_yet_is_taken_back() {
    let mut pair = Pair::new(id(1), BTreeMap::new());
    pair.take(vip(0));
    pair.handle_claim(vip(0), claim(9, 2));
    assert_eq!(drain(&mut pair), [PairCommand::ClearOwner(vip(0))]);
}

#[test]
fn rule_15_two_that_took_the_same_agree_after_one_exchange() {
    for (first, second) in [(1, 1), (1, 2), (3, 2)] {
        let mut pairs = [1, 2].map(|node| Pair::new(id(node), BTreeMap::new()));
        (0..first).for_each(|_| pairs[0].take(vip(0)));
        (0..second).for_each(|_| pairs[1].take(vip(0)));
        let claims = [claim(first, 1), claim(second, 2)];
        pairs[0].handle_claim(vip(0), claims[1]);
        pairs[1].handle_claim(vip(0), claims[0]);
        assert_ne!(pairs[0].owns(vip(0)), pairs[1].owns(vip(0)));
        assert_eq!(pairs[0].owns(vip(0)), claims[0] > claims[1]);
    }
}

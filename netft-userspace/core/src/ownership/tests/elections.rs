use super::*;
use crate::ownership::elections::{NO_PROGRESS_NS, STAGGER_NS};
use crate::ownership::{Elections, Heed, Seen};

fn voters() -> VoterSets {
    VoterSets::of([1, 2, 3].map(id).into_iter().collect())
}

/// A follower of node 1, which has just died.
fn bereaved(own: u16, others: &[(u16, u64)]) -> Elections {
    let mut elections = Elections::new(NOW, id(own));
    elections.handle_append(NOW, id(1));
    others.iter().for_each(|(node, last)| elections.handle_last(id(*node), at(*last)));
    elections.handle_peer(NOW, id(1), Seen::Down);
    elections
}

#[test]
fn rule_11_the_longest_log_stands_first_then_the_lowest_id() {
    let stands_ns =
        |own, last, others: &[(u16, u64)]| bereaved(own, others).poll_timeout(NOW, &voters(), at(last)) - NOW;
    assert_eq!(stands_ns(2, 5, &[(3, 5)]), 0);
    assert_eq!(stands_ns(3, 5, &[(2, 5)]), STAGGER_NS);
    assert_eq!(stands_ns(3, 6, &[(2, 5)]), 0);
    assert_eq!(stands_ns(2, 5, &[(3, 6)]), STAGGER_NS);
}

#[test]
fn rule_11_it_goes_on_until_a_leader_is_known() {
    let mut elections = bereaved(2, &[]);
    assert!(elections.handle_timeout(NOW, &voters(), at(5)));
    assert!(!elections.handle_timeout(NOW + MS, &voters(), at(5)));
    assert!(elections.handle_timeout(NOW + 5 * STAGGER_NS, &voters(), at(5)));
    elections.handle_append(NOW + 6 * STAGGER_NS, id(3));
    assert!(!elections.handle_timeout(NOW + 20 * STAGGER_NS, &voters(), at(5)));
    let silent_ns = NOW + 6 * STAGGER_NS + NO_PROGRESS_NS;
    assert!(elections.handle_timeout(silent_ns, &voters(), at(5)), "a leader that says nothing is none");
}

#[test]
fn rule_11_who_sees_no_majority_does_not_stand() {
    let mut elections = bereaved(2, &[]);
    elections.handle_peer(NOW, id(3), Seen::Down);
    assert!(!elections.handle_timeout(NOW + 100 * STAGGER_NS, &voters(), at(5)));
    elections.handle_peer(NOW, id(3), Seen::Up);
    assert!(elections.handle_timeout(NOW + 100 * STAGGER_NS, &voters(), at(5)));
}

#[test]
fn rule_11_votes_against_a_leader_that_works_are_dropped() {
    let mut elections = Elections::new(NOW, id(2));
    assert_eq!(elections.heed_vote_request(NOW, id(3), &voters()), Heed::Consider);
    elections.handle_append(NOW, id(1));
    assert_eq!(elections.heed_vote_request(NOW + NO_PROGRESS_NS - 1, id(3), &voters()), Heed::Drop);
    assert_eq!(elections.heed_vote_request(NOW + NO_PROGRESS_NS, id(3), &voters()), Heed::Consider);
    elections.handle_peer(NOW, id(1), Seen::Down);
    assert_eq!(elections.heed_vote_request(NOW + 1, id(3), &voters()), Heed::Consider);
}

#[test]
fn rule_11_a_leader_drops_votes_while_a_majority_acknowledges_it() {
    let mut elections = Elections::new(NOW, id(1));
    for node in [2, 3] {
        elections.handle_peer(NOW, id(node), Seen::Up);
    }
    elections.handle_elected(NOW);
    assert_eq!(elections.heed_vote_request(NOW + NO_PROGRESS_NS, id(3), &voters()), Heed::Consider);
    elections.handle_acknowledge(NOW + NO_PROGRESS_NS, id(3));
    assert_eq!(elections.heed_vote_request(NOW + NO_PROGRESS_NS, id(3), &voters()), Heed::Drop);
    elections.handle_peer(NOW + NO_PROGRESS_NS, id(3), Seen::Down);
    assert_eq!(elections.heed_vote_request(NOW + NO_PROGRESS_NS, id(3), &voters()), Heed::Consider);
}

#[test]
fn rule_11_a_leader_that_asks_for_votes_leads_no_more() {
    let mut elections = Elections::new(NOW, id(2));
    elections.handle_append(NOW, id(1));
    assert_eq!(elections.heed_vote_request(NOW + 1, id(3), &voters()), Heed::Drop);
    assert_eq!(elections.heed_vote_request(NOW + 1, id(1), &voters()), Heed::Consider);
    assert_eq!(elections.heed_vote_request(NOW + 1, id(3), &voters()), Heed::Consider);
}

#[test]
fn rule_11_what_is_under_way_from_a_dead_leader_does_not_bring_it_back() {
    let mut elections = bereaved(2, &[]);
    elections.handle_append(NOW, id(1));
    assert!(elections.handle_timeout(NOW, &voters(), at(5)));
    elections.handle_peer(NOW, id(1), Seen::Up);
    elections.handle_append(NOW, id(1));
    assert!(!elections.handle_timeout(NOW + 20 * STAGGER_NS, &voters(), at(5)));
}

#[test]
fn rule_11_candidates_stand_as_far_apart_as_an_election_takes() {
    let mut elections = bereaved(3, &[(2, 5)]);
    elections.handle_pace(20 * MS);
    assert_eq!(elections.poll_timeout(NOW, &voters(), at(5)), NOW + 20 * MS);
    // Whoever got the vote is waited for: a round of everybody, and the own turn.
    elections.handle_granted(NOW + MS, &voters(), at(5));
    assert_eq!(elections.poll_timeout(NOW + MS, &voters(), at(5)), NOW + MS + 5 * 20 * MS);
}

use super::*;
use crate::ownership::{Message, NodeSet, VoterStanding};
use netft_common::fence::UNSURE;

fn vouches(commands: &[Command]) -> Vec<(u16, u64)> {
    let stored = commands.iter().filter_map(|command| match command {
        Command::StoreVouch(node, index) => Some((node.get(), *index)),
        _ => None,
    });
    stored.collect()
}

fn place(commands: &[Command], wanted: impl Fn(&Command) -> bool) -> usize {
    commands.iter().position(wanted).unwrap_or_else(|| panic!("not in {commands:?}"))
}

fn takes(commands: &[Command]) -> bool {
    commands.iter().any(|command| matches!(command, Command::SetOwner(..)))
}

#[test]
fn rule_1_vouching_follows_what_is_appended_and_what_is_truncated() {
    let mut voter = node(2, 1);
    voter.handle_append(&[(at(NEXT), assign(Some(3), Some(4), 8))]);
    assert_eq!(vouches(&drain(&mut voter)), [(3, NEXT)]);
    voter.handle_append(&[(at(NEXT + 1), assign(Some(4), Some(3), 9))]);
    assert_eq!(vouches(&drain(&mut voter)), [(4, NEXT + 1)]);
    voter.handle_truncate(NEXT, at(NEXT - 1));
    assert_eq!(vouches(&drain(&mut voter)), [(3, 0), (4, 0)]);
}

#[test]
fn rule_1_a_loss_is_remembered_once_it_is_applied() {
    let mut voter = node(2, 1);
    add(&mut voter, NEXT, assign(None, Some(3), 8));
    add(&mut voter, NEXT + 1, assign(Some(3), Some(4), 9));
    voter.handle_truncate(NEXT + 2, at(NEXT + 1));
    assert_eq!(vouches(&drain(&mut voter)), []);
}

#[test]
fn rule_1_who_starts_or_fails_vouches_for_nobody() {
    let mut voter = started(2);
    assert_eq!(drain(&mut voter), [Command::StoreAllUnsure]);
    let mut voter = node(2, 1);
    voter.handle_store_failed();
    let unsure = vouches(&drain(&mut voter));
    assert_eq!(unsure, [(1, UNSURE), (2, UNSURE), (3, UNSURE), (4, UNSURE)]);
    assert_eq!(voter.standing(), VoterStanding::Unsure);
}

#[test]
fn rule_1_too_many_assignments_at_once_make_a_voter_unsure_until_they_are_applied() {
    let mut voter = node(2, 1);
    let many = crate::ownership::vouching::MAX_TAIL as u64 + 1;
    let entries: Vec<_> =
        (NEXT..NEXT + many).map(|index| (at(index), assign(Some(3), Some(3), index - 1))).collect();
    voter.handle_append(&entries);
    assert_eq!(vouches(&drain(&mut voter)), [(1, UNSURE), (2, UNSURE), (3, UNSURE), (4, UNSURE)]);
    commit(&mut voter, &entries);
    assert_eq!(vouches(&drain(&mut voter)), [(1, 0), (2, 0), (3, NEXT + many - 1), (4, 0)]);
}

#[test]
fn rule_5_handovers_wait_for_the_longer_lease_until_the_change_is_settled() {
    let mut state = state();
    let silence_ns = |state: &State| state.silence_ns(id(1), id(2));
    assert_eq!(silence_ns(&state), LEASE + LEASE / 4);
    let shorter = Leases { same_subnet_ns: LEASE / 2, ..Leases::default() };
    state.apply(at(NEXT), &Entry::Leases(shorter));
    assert_eq!((state.lease_ns(id(1), id(2)), silence_ns(&state)), (LEASE / 2, LEASE + LEASE / 4));
    state.apply(at(NEXT + 1), &Entry::Settled(NEXT - 1));
    assert_eq!(silence_ns(&state), LEASE + LEASE / 4, "another change was settled");
    state.apply(at(NEXT + 2), &Entry::Settled(NEXT));
    assert_eq!(silence_ns(&state), LEASE / 2 + LEASE / 8);
}

#[test]
fn rule_5_leases_go_by_what_the_log_says_of_both_nodes() {
    let mut state = state();
    let place = |site, subnet| Member { incarnation: 1, site, subnet, standing: Standing::Active };
    state.apply(at(NEXT), &Entry::Member(id(5), place(0, 1)));
    state.apply(at(NEXT + 1), &Entry::Member(id(6), place(1, 0)));
    let leases = Leases::default();
    assert_eq!(state.lease_ns(id(1), id(5)), leases.cross_subnet_ns);
    assert_eq!(state.lease_ns(id(6), id(1)), leases.cross_site_ns);
    state.apply(at(NEXT + 2), &Entry::Member(id(6), place(0, 0)));
    assert_eq!(
        state.lease_ns(id(6), id(1)),
        leases.cross_site_ns,
        "a node doesn't move while it is a member"
    );
}

#[test]
fn rule_7_a_new_owner_waits_for_the_release_of_this_very_epoch() {
    let mut new = node(4, 1);
    add(&mut new, NEXT, assign(None, Some(3), 8));
    assert!(!takes(&add(&mut new, NEXT + 1, assign(Some(3), Some(4), 9))));
    new.handle_message(NOW, id(3), &Message::Released { vip: vip(0), epoch: 8 });
    new.handle_message(NOW, id(2), &Message::Released { vip: vip(0), epoch: 9 });
    assert!(!takes(&drain(&mut new)), "another epoch, and somebody else");
    new.handle_message(NOW, id(3), &Message::Released { vip: vip(0), epoch: 9 });
    let taken = drain(&mut new);
    assert_eq!(taken[0], Command::SetOwner(vip(0), 9));
    assert_eq!(taken[1], Command::Send(id(1), Message::Took { vip: vip(0), epoch: 9 }));
}

#[test]
fn rule_7_a_release_is_told_after_the_bit_is_cleared_and_flushed() {
    let mut old = node(3, 1);
    assert!(takes(&add(&mut old, NEXT, assign(None, Some(3), 8))));
    let commands = add(&mut old, NEXT + 1, assign(Some(3), Some(4), 9));
    let released = Message::Released { vip: vip(0), epoch: 9 };
    let cleared = place(&commands, |command| *command == Command::ClearOwner(vip(0)));
    let flushed = place(&commands, |command| *command == Command::Flush);
    let applied = place(&commands, |command| *command == Command::StoreApplied(NEXT + 1));
    let told = place(&commands, |command| *command == Command::Send(id(4), released.clone()));
    assert!(cleared < flushed && flushed < applied && applied < told, "{commands:?}");
}

#[test]
fn rule_7_who_gets_a_vip_back_at_a_new_epoch_takes_it_anew() {
    let mut owner = node(3, 1);
    add(&mut owner, NEXT, assign(None, Some(3), 8));
    let entries = [(at(NEXT + 1), assign(Some(3), Some(4), 9)), (at(NEXT + 2), assign(Some(4), Some(3), 10))];
    owner.handle_append(&entries);
    commit(&mut owner, &entries);
    let commands = drain(&mut owner);
    assert!(
        commands.contains(&Command::ClearOwner(vip(0))) && !takes(&commands),
        "n4 may have it: {commands:?}"
    );
}

/// What a leader asks of node 2.
fn question(commands: &[Command]) -> Option<(u64, LogId)> {
    commands.iter().find_map(|command| match command {
        Command::Send(to, Message::Ask { nonce, id: entry, .. }) if *to == id(2) => Some((*nonce, *entry)),
        _ => None,
    })
}

#[test]
fn rule_7_a_majority_of_reports_and_their_leases_make_an_owner_surely_silent() {
    let mut leader = node(1, 1);
    add(&mut leader, NEXT, assign(None, Some(3), 8));
    leader.handle_append(&[(at(NEXT + 1), assign(Some(3), Some(4), 9))]);
    leader.handle_stamps(NOW, &[(id(3), NOW)]);
    assert_eq!(question(&drain(&mut leader)), None, "rule 8: nobody is asked before the commit");
    commit(&mut leader, &[(at(NEXT + 1), assign(Some(3), Some(4), 9))]);
    let (nonce, entry) = question(&drain(&mut leader)).unwrap();
    assert_eq!(entry, at(NEXT + 1));
    leader.handle_message(NOW, id(2), &Message::Report { nonce: nonce + 9, age_ns: 1_000 * MS });
    leader.handle_message(NOW, id(2), &Message::Report { nonce, age_ns: 3 * MS });
    let silent = Command::Send(id(4), Message::Silent { vip: vip(0), epoch: 9, node: id(3) });
    leader.handle_timeout(NOW + LEASE + LEASE / 4 - 1);
    assert!(!drain(&mut leader).contains(&silent), "the leader itself vouched until now");
    leader.handle_timeout(NOW + LEASE + LEASE / 4);
    assert!(drain(&mut leader).contains(&silent));
}

#[test]
fn rule_8_the_append_is_acknowledged_after_the_stamps_were_read() {
    let mut voter = node(2, 1);
    voter.handle_append(&[(at(NEXT), assign(Some(3), Some(4), 8))]);
    let expected = [
        Command::StoreVouch(id(3), NEXT),
        Command::ReadStamps([id(3)].into_iter().collect()),
        Command::Acknowledge(at(NEXT)),
    ];
    assert_eq!(drain(&mut voter), expected);
}

fn report(voter: &mut Ownership, now: u64, entry: LogId) -> Option<u64> {
    voter.handle_message(now, id(1), &Message::Ask { nonce: 5, node: id(3), id: entry });
    drain(voter).iter().find_map(|command| match command {
        Command::Send(_, Message::Report { nonce: 5, age_ns }) => Some(*age_ns),
        _ => None,
    })
}

#[test]
fn rule_8_a_voter_reports_when_it_last_vouched_before_it_held_the_entry() {
    let mut voter = node(2, 1);
    assert_eq!(report(&mut voter, NOW, at(NEXT)), None, "it doesn't hold it");
    voter.handle_append(&[(at(NEXT), assign(Some(3), Some(4), 8))]);
    drain(&mut voter);
    assert_eq!(report(&mut voter, NOW, at(NEXT)), Some(0), "the reading isn't there yet");
    voter.handle_stamps(NOW, &[(id(3), NOW - 2 * MS)]);
    assert_eq!(report(&mut voter, NOW + MS, at(NEXT)), Some(3 * MS));
    assert_eq!(report(&mut voter, NOW + MS, LogId { term: 2, index: NEXT }), None, "another entry");
    voter.handle_truncate(NEXT, at(NEXT - 1));
    drain(&mut voter);
    assert_eq!(report(&mut voter, NOW + MS, at(NEXT)), None);
}

#[test]
fn rule_8_a_voter_that_lost_its_reading_says_now() {
    let mut voter = started(2);
    let mut log = beginning();
    log.push((at(NEXT), assign(Some(3), Some(4), 8)));
    voter.handle_restored(NOW, State::default(), log.iter().map(|(id, entry)| (*id, entry)));
    voter.handle_leader(NOW, 1, Some(id(1)));
    commit(&mut voter, &log[..log.len() - 1]);
    drain(&mut voter);
    voter.handle_stamps(NOW, &[(id(3), 5)]);
    assert_eq!(report(&mut voter, NOW + MS, at(NEXT)), Some(MS), "since it started, whatever the stamps say");
}

#[test]
fn rule_9_every_owner_whose_end_is_not_recorded_is_waited_for() {
    let mut new = node(4, 1);
    add(&mut new, NEXT, assign(None, Some(2), 8));
    add(&mut new, NEXT + 1, assign(Some(2), Some(3), 9));
    add(&mut new, NEXT + 2, assign(Some(3), Some(4), 10));
    new.handle_message(NOW, id(3), &Message::Released { vip: vip(0), epoch: 10 });
    assert!(!takes(&drain(&mut new)));
    new.handle_message(NOW, id(1), &Message::Silent { vip: vip(0), epoch: 10, node: id(2) });
    assert!(takes(&drain(&mut new)));
}

#[test]
fn rule_9_a_recorded_end_is_not_asked_for_again() {
    let mut new = node(4, 1);
    add(&mut new, NEXT, assign(None, Some(2), 8));
    add(&mut new, NEXT + 1, assign(Some(2), Some(3), 9));
    add(&mut new, NEXT + 2, Entry::Took { vip: vip(0), epoch: 9 });
    add(&mut new, NEXT + 3, assign(Some(3), Some(4), 10));
    new.handle_message(NOW, id(3), &Message::Released { vip: vip(0), epoch: 10 });
    assert!(takes(&drain(&mut new)));
}

#[test]
fn rule_9_an_end_is_recorded_once_however_often_it_is_told() {
    let mut leader = node(1, 1);
    add(&mut leader, NEXT, assign(None, Some(2), 8));
    add(&mut leader, NEXT + 1, assign(Some(2), Some(3), 9));
    let mut told = |now: u64| {
        leader.handle_message(now, id(3), &Message::Took { vip: vip(0), epoch: 9 });
        drain(&mut leader)
            .iter()
            .filter(|command| matches!(command, Command::Propose(Entry::Took { .. })))
            .count()
    };
    let often: usize = (0..20).map(|ms| told(NOW + ms * MS)).sum();
    assert_eq!(often, 1, "each costs a write to every disk");
    assert_eq!(told(NOW + 20 * MS), 1, "it may have been lost");
}

#[test]
fn rule_13_voters_change_one_at_a_time_once_the_last_change_is_settled() {
    let voters = |nodes: &[u16]| nodes.iter().copied().map(id).collect::<NodeSet>();
    let mut leader = node(1, 1);
    assert!(leader.may_change_voters(&voters(&[1, 2, 3, 4])) && leader.may_change_voters(&voters(&[1, 2])));
    assert!(!leader.may_change_voters(&voters(&[1, 2, 4])), "two at once");
    assert!(!leader.may_change_voters(&voters(&[1, 2, 3])), "no change");
    assert!(!node(2, 1).may_change_voters(&voters(&[1, 2])), "it doesn't lead");
    add(&mut leader, NEXT, assign(None, Some(3), 8));
    add(&mut leader, NEXT + 1, Entry::Voters(VoterSets::of(voters(&[1, 2, 3, 4]))));
    assert!(!leader.may_change_voters(&voters(&[1, 2, 3])));
    leader.handle_timeout(NOW + MS);
    let settles = |commands: Vec<Command>| commands.contains(&Command::Propose(Entry::Settled(NEXT + 1)));
    assert!(!settles(drain(&mut leader)), "n3 owns something and hasn't applied it");
    leader.handle_message(NOW, id(3), &Message::Progress { applied: NEXT + 1, last: at(NEXT + 1) });
    leader.handle_timeout(NOW + 50 * MS);
    assert!(settles(drain(&mut leader)));
    add(&mut leader, NEXT + 2, Entry::Settled(NEXT + 1));
    assert!(leader.may_change_voters(&voters(&[1, 2, 3])));
}

#[test]
fn rule_13_a_node_that_replays_its_log_tells_what_its_fence_still_goes_by() {
    let start = Start { own: id(3), incarnation: 33, applied: 2, owned: Vec::new() };
    let mut replaying = Ownership::new(start);
    let log = beginning();
    replaying.handle_restored(NOW, State::default(), log.iter().map(|(id, entry)| (*id, entry)));
    commit(&mut replaying, &log);
    let told = |node: &mut Ownership, now| {
        node.handle_timeout(now);
        drain(node).into_iter().find_map(|command| match command {
            Command::Send(_, Message::Progress { applied, .. }) => Some(applied),
            _ => None,
        })
    };
    assert_eq!(told(&mut replaying, NOW), Some(2));
    replaying.handle_leader_commit(NOW, 1, at(NEXT - 1));
    assert_eq!(told(&mut replaying, NOW + 10 * MS), Some(NEXT - 1));
}

#[test]
fn rule_14_another_store_neither_votes_nor_vouches() {
    let start = Start { own: id(2), incarnation: 5, applied: 0, owned: Vec::new() };
    let mut wiped = Ownership::new(start);
    wiped.handle_restored(NOW, State::default(), []);
    assert_eq!(wiped.standing(), VoterStanding::WrongStore);
    let log = beginning();
    wiped.handle_append(&log);
    commit(&mut wiped, &log);
    let stored = vouches(&drain(&mut wiped));
    assert!(stored.iter().all(|(_, index)| *index == UNSURE), "{stored:?}");
    assert_eq!(wiped.knows_own_store(log.iter().map(|(_, entry)| entry)), VoterStanding::WrongStore);
}

/// Lets a leader work until so many milliseconds after [`NOW`], one of its rounds after the other.
fn work(leader: &mut Ownership, from_ms: u64, until_ms: u64, mut each_round: impl FnMut(&mut Ownership)) {
    for ms in (from_ms..=until_ms).step_by(2) {
        each_round(leader);
        leader.handle_timeout(NOW + ms * MS);
        drain(leader);
    }
}

fn says(node: u16, applied: u64) -> impl FnMut(&mut Ownership) {
    move |leader| {
        let progress = Message::Progress { applied, last: at(NEXT - 1) };
        leader.handle_message(NOW, id(node), &progress);
    }
}

#[test]
fn rule_14_a_node_that_does_not_apply_counts_as_failed() {
    let mut leader = node(1, 1);
    let mut both = |leader: &mut Ownership| {
        says(2, NEXT - 1)(leader);
        says(3, NEXT - 2)(leader);
    };
    work(&mut leader, 0, 50, &mut both);
    assert!(!leader.sleeps(id(3)));
    work(&mut leader, 52, 52, &mut both);
    assert!(leader.sleeps(id(3)) && !leader.sleeps(id(2)));
    says(3, NEXT - 1)(&mut leader);
    assert!(!leader.sleeps(id(3)), "it has caught up");
}

#[test]
fn rule_14_a_node_that_says_nothing_counts_as_failed() {
    let mut leader = node(1, 1);
    says(3, NEXT - 1)(&mut leader);
    work(&mut leader, 0, 248, says(2, NEXT - 1));
    assert!(!leader.sleeps(id(3)), "it may stand still for as long as an engine may");
    work(&mut leader, 250, 250, says(2, NEXT - 1));
    assert!(leader.sleeps(id(3)) && !leader.sleeps(id(2)) && !leader.sleeps(id(1)));
    says(3, NEXT - 1)(&mut leader);
    assert!(!leader.sleeps(id(3)), "it speaks again");
}

#[test]
fn rule_14_nobody_is_silent_while_the_leader_itself_stood_still() {
    let mut leader = node(1, 1);
    work(&mut leader, 0, 10, |leader| (2..=4).for_each(|node| says(node, NEXT - 1)(leader)));
    // What came meanwhile waits behind the timer.
    leader.handle_timeout(NOW + 1_000 * MS);
    assert!((1..=4).all(|node| !leader.sleeps(id(node))));
}

#[test]
fn a_node_that_starts_acts_on_nothing_before_it_has_caught_up() {
    let mut node = started(3);
    let mut log = beginning();
    log.push((at(NEXT), assign(None, Some(3), 8)));
    log.push((at(NEXT + 1), assign(Some(3), Some(4), 9)));
    node.handle_restored(NOW, State::default(), log.iter().map(|(id, entry)| (*id, entry)));
    node.handle_leader(NOW, 2, Some(id(1)));
    node.handle_leader_commit(NOW, 2, at(NEXT));
    commit(&mut node, &log[..log.len() - 1]);
    assert!(!takes(&drain(&mut node)), "the leader has committed nothing of its own term");
    node.handle_leader_commit(NOW, 2, LogId { term: 2, index: NEXT + 2 });
    commit(&mut node, &log[log.len() - 1..]);
    let commands = drain(&mut node);
    assert!(!commands.iter().any(|command| matches!(command, Command::StoreApplied(_))), "{commands:?}");
    commit(&mut node, &[(LogId { term: 2, index: NEXT + 2 }, Entry::Blank)]);
    assert!(drain(&mut node).contains(&Command::StoreApplied(NEXT + 2)));
}

#[test]
fn a_daemon_that_starts_again_keeps_what_it_owns_and_clears_what_it_lost() {
    let owned = vec![(vip(0), 8)];
    for (last, kept) in [(NEXT, true), (NEXT + 1, false)] {
        let start = Start { own: id(3), incarnation: 33, applied: NEXT, owned: owned.clone() };
        let mut node = Ownership::new(start);
        let mut log = beginning();
        log.push((at(NEXT), assign(None, Some(3), 8)));
        log.push((at(NEXT + 1), assign(Some(3), Some(4), 9)));
        node.handle_restored(NOW, State::default(), log.iter().map(|(id, entry)| (*id, entry)));
        node.handle_leader_commit(NOW, 1, at(last));
        commit(&mut node, &log[..usize::try_from(last).unwrap()]);
        let commands = drain(&mut node);
        assert_eq!(commands.contains(&Command::ClearOwner(vip(0))), !kept, "{commands:?}");
        assert!(!takes(&commands));
    }
}

#[test]
fn an_epoch_is_never_used_again() {
    let mut state = state();
    assert_eq!(state.vips[&vip(0)].epoch, 7);
    state.apply(at(NEXT), &Entry::RemoveVip(vip(0)));
    state.apply(at(NEXT + 1), &Entry::Vip(vip(0), VipSettings::default()));
    assert_eq!(state.vips[&vip(0)].epoch, NEXT + 1);
}

#[test]
fn an_assignment_that_comes_too_late_is_void() {
    let mut state = state();
    state.apply(at(NEXT), &assign(None, Some(3), 8));
    state.apply(at(NEXT + 1), &assign(None, Some(4), 8));
    state.apply(at(NEXT + 2), &assign(Some(2), Some(4), 9));
    assert_eq!((state.vips[&vip(0)].owner, state.vips[&vip(0)].epoch), (Some(id(3)), 8));
}

fn settings(name: &str, address: &str) -> VipSettings {
    VipSettings { name: name.into(), addresses: vec![address.parse().unwrap()], ..VipSettings::default() }
}

#[test]
fn what_a_vip_is_never_changes_and_no_two_have_an_address_in_common() {
    let mut state = state();
    let mut index = NEXT..;
    let mut apply = |number, settings: VipSettings| {
        state.apply(at(index.next().unwrap()), &Entry::Vip(vip(number), settings));
        state.vips.get(&vip(number)).map(|vip| vip.settings.clone())
    };
    let web = settings("web", "10.0.0.100/24");
    assert_eq!(apply(1, web.clone()), Some(web.clone()));
    assert_eq!(apply(1, settings("web", "10.0.0.101/24")), Some(web.clone()), "another address");
    assert_eq!(apply(1, settings("db", "10.0.0.100/24")), Some(web.clone()), "another name");
    assert_eq!(apply(2, settings("db", "10.0.0.100/25")), None, "the same address");
    assert_eq!(apply(2, settings("web", "10.0.0.102/24")), None, "the same name");
    let preferred = VipSettings { preferred: vec![id(3)], ..web };
    assert_eq!(apply(1, preferred.clone()), Some(preferred));
}

#[test]
fn addresses_are_stored_before_the_owner_bit_and_forgotten_once_nobody_owns() {
    let mut node = node(2, 1);
    let web = settings("web", "10.0.0.100/24");
    let given =
        Entry::Assign { vip: vip(1), from: None, owner: Some(id(2)), epoch: NEXT + 1, why: Why::default() };
    let entries = [(at(NEXT), Entry::Vip(vip(1), web.clone())), (at(NEXT + 1), given)];
    node.handle_append(&entries);
    commit(&mut node, &entries);
    let commands = drain(&mut node);
    let place = |wanted| commands.iter().position(|command| *command == wanted).unwrap();
    assert!(
        place(Command::StoreVip(vip(1), web)) < place(Command::SetOwner(vip(1), NEXT + 1)),
        "{commands:?}"
    );
    let kept = add(&mut node, NEXT + 2, Entry::RemoveVip(vip(1)));
    assert!(!kept.contains(&Command::ForgetVip(vip(1))), "somebody owns it: {kept:?}");
    assert!(!kept.iter().any(|command| matches!(command, Command::StoreVip(..))), "stored once: {kept:?}");
    add(
        &mut node,
        NEXT + 3,
        Entry::Assign { vip: vip(1), from: Some(id(2)), owner: None, epoch: NEXT + 2, why: Why::Removed },
    );
    add(&mut node, NEXT + 4, Entry::Took { vip: vip(1), epoch: NEXT + 2 });
    let gone = add(&mut node, NEXT + 5, Entry::RemoveVip(vip(1)));
    assert!(gone.contains(&Command::ForgetVip(vip(1))), "{gone:?}");
    // Its number may be another VIP's now.
    let db = settings("db", "10.0.0.101/24");
    let made = add(&mut node, NEXT + 6, Entry::Vip(vip(1), db.clone()));
    assert!(made.contains(&Command::StoreVip(vip(1), db)), "{made:?}");
}

#[test]
fn who_is_asked_to_move_a_vip_and_does_not_lead_tells_the_leader() {
    let mut other = node(2, 1);
    other.ask_to_move(NOW, vip(0), id(3));
    let told = Message::Move { vip: vip(0), node: id(3) };
    assert_eq!(drain(&mut other), [Command::Send(id(1), told.clone())]);
    let mut leader = node(1, 1);
    leader.handle_message(NOW, id(2), &told);
    let moved = Entry::Assign { vip: vip(0), from: None, owner: Some(id(3)), epoch: 8, why: Why::Moved };
    assert_eq!(drain(&mut leader), [Command::Propose(moved)]);
    // Nobody who takes no part gets one.
    let mut leader = node(1, 1);
    leader.ask_to_move(NOW, vip(0), id(9));
    assert_eq!(drain(&mut leader), []);
}

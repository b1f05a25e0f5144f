use super::*;
use crate::ownership::policy::{Check, Fitness, Policy, QUARANTINE_NS};
use crate::ownership::{Maintenance, Seen};

const EVERYWHERE: u64 = u64::MAX;

fn policy() -> Policy {
    let mut policy = Policy::default();
    (1..=4).for_each(|node| policy.handle_node(NOW, id(node), Seen::Up, EVERYWHERE));
    policy
}

/// VIPs 0 and 1 with these settings, owned by nodes 1 and 2.
fn owned(settings: &VipSettings) -> State {
    let mut state = state();
    for (number, owner) in [(0, 1), (1, 2)] {
        let index = state.applied.index + 1;
        state.apply(at(index), &Entry::Vip(vip(number), settings.clone()));
        let epoch = state.vips[&vip(number)].epoch + 1;
        let entry = Entry::Assign {
            vip: vip(number),
            from: None,
            owner: Some(id(owner)),
            epoch,
            why: Why::default(),
        };
        state.apply(at(index + 1), &entry);
    }
    state
}

fn next(state: &mut State, entry: &Entry) {
    state.apply(at(state.applied.index + 1), entry);
}

#[test]
fn what_works_stays_where_it_is() {
    assert_eq!(policy().plan(NOW, &owned(&VipSettings::default())), []);
}

#[test]
fn a_dead_owner_is_replaced_by_who_has_least() {
    let mut policy = policy();
    policy.handle_node(NOW, id(1), Seen::Down, EVERYWHERE);
    assert_eq!(policy.plan(NOW, &owned(&VipSettings::default())), [(vip(0), id(3))]);
}

#[test]
fn nothing_moves_when_nobody_could_do_better() {
    let mut policy = policy();
    (1..=4).for_each(|node| policy.handle_node(NOW, id(node), Seen::Down, EVERYWHERE));
    assert_eq!(policy.plan(NOW, &owned(&VipSettings::default())), []);
}

#[test]
fn an_owner_whose_client_network_is_dead_gives_up_while_another_can_serve() {
    let mut policy = policy();
    policy.handle_node(NOW, id(1), Seen::Up, !1);
    assert_eq!(policy.plan(NOW, &owned(&VipSettings::default())), [(vip(0), id(3))]);
    (2..=4).for_each(|node| policy.handle_node(NOW, id(node), Seen::Up, !1));
    assert_eq!(policy.plan(NOW, &owned(&VipSettings::default())), []);
}

#[test]
fn a_group_moves_together() {
    let mut policy = policy();
    let state = owned(&VipSettings { group: Some(7), ..VipSettings::default() });
    assert_eq!(policy.plan(NOW, &state), [(vip(1), id(1))], "to the owner of its first VIP");
    policy.handle_check(&state, vip(1), id(1), Check::Fails);
    assert_eq!(policy.plan(NOW, &state), [(vip(0), id(3)), (vip(1), id(3))]);
    policy.handle_check(&state, vip(1), id(1), Check::Passes);
    assert_eq!(policy.plan(NOW, &state), [(vip(1), id(1))]);
}

#[test]
fn a_preferred_node_gets_it_back_only_after_its_failback_time() {
    let preferred =
        |failback_ns| VipSettings { preferred: vec![id(4)], failback_ns, ..VipSettings::default() };
    assert_eq!(policy().plan(NOW + MS, &owned(&preferred(None))), []);
    let state = owned(&preferred(Some(10 * MS)));
    assert_eq!(policy().plan(NOW + 10 * MS - 1, &state), []);
    assert_eq!(policy().plan(NOW + 10 * MS, &state), [(vip(0), id(4)), (vip(1), id(4))]);
}

#[test]
fn a_drained_node_and_a_witness_get_nothing() {
    let mut state = owned(&VipSettings::default());
    let member = |standing| Member { incarnation: 1, site: 0, subnet: 0, standing };
    next(&mut state, &Entry::Member(id(1), member(Standing::Drained)));
    next(&mut state, &Entry::Member(id(3), member(Standing::Witness)));
    assert_eq!(policy().plan(NOW, &state), [(vip(0), id(4))]);
}

#[test]
fn a_node_that_fails_three_times_in_an_hour_is_avoided_for_the_rest_of_it() {
    let mut policy = policy();
    for count in 1..=3 {
        policy.handle_node(NOW + count * MS, id(3), Seen::Down, EVERYWHERE);
        policy.handle_node(NOW + count * MS, id(3), Seen::Up, EVERYWHERE);
    }
    policy.handle_node(NOW, id(1), Seen::Down, EVERYWHERE);
    let state = owned(&VipSettings::default());
    assert_eq!(policy.fitness(NOW + 3 * MS, &state, id(3), vip(0)), Fitness::Quarantined);
    assert_eq!(policy.plan(NOW + 3 * MS, &state), [(vip(0), id(4))]);
    (2..=4).filter(|node| *node != 3).for_each(|node| {
        policy.handle_node(NOW, id(node), Seen::Down, EVERYWHERE);
    });
    assert_eq!(policy.plan(NOW + 3 * MS, &state)[0], (vip(0), id(3)), "better than nobody");
    assert_eq!(policy.fitness(NOW + MS + QUARANTINE_NS, &state, id(3), vip(0)), Fitness::Fit);
}

#[test]
fn maintenance_freezes_decisions() {
    let mut policy = policy();
    let mut state = owned(&VipSettings::default());
    policy.handle_node(NOW, id(1), Seen::Down, EVERYWHERE);
    next(&mut state, &Entry::Maintenance(Maintenance::On));
    assert_eq!(policy.plan(NOW, &state), []);
}

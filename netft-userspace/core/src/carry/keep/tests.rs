use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const MS: Nanos = 1_000_000;
const UP: Standing = Standing::Up { since_ns: 0 };

fn slot(index: u32) -> Slot {
    Slot::new(index).unwrap()
}

fn peer() -> NodeId {
    NodeId::new(2).unwrap()
}

fn up(completed_sent_ns: Nanos) -> Evidence {
    Evidence { standing: UP, completed_sent_ns }
}

fn down(covered_ns: Nanos) -> Evidence {
    Evidence { standing: Standing::Down { covered_ns }, completed_sent_ns: covered_ns }
}

/// What is kept for a route, in order, by sending it again over another one.
fn replayed(keep: &mut Keep, from: Slot, evidence: Evidence) -> Vec<(u64, Vec<u8>)> {
    let (mut frames, mut buffer) = (Vec::new(), vec![0; 16 * BLOCK]);
    keep.release(from, evidence);
    while keep.lost(from, evidence).is_some() {
        let kept = keep.move_first(from, slot(900), &mut buffer).unwrap();
        frames.push((kept.sequence, buffer[..kept.length].to_vec()));
    }
    frames
}

#[test]
fn a_heartbeat_covers_what_left_long_enough_before_it() {
    let mut keep = Keep::new(8 * BLOCK);
    for (sequence, sent_ns) in [(1, 10 * MS), (2, 11 * MS), (3, 12 * MS)] {
        assert_eq!(keep.push(slot(0), peer(), sequence, b"frame"), 0);
        keep.stamp(sent_ns);
    }
    keep.release(slot(0), up(10 * MS + OVERTAKING_NS - 1));
    assert_eq!(keep.bytes(), 3 * BLOCK as u64);
    assert_eq!(keep.lost(slot(0), up(12 * MS)), None, "a route that is up has lost nothing");
    let evidence = down(11 * MS + OVERTAKING_NS);
    assert_eq!(replayed(&mut keep, slot(0), evidence), [(3, b"frame".to_vec())]);
}

#[test]
fn what_is_not_handed_over_yet_is_not_covered_by_anything() {
    let mut keep = Keep::new(8 * BLOCK);
    keep.push(slot(0), peer(), 1, b"frame");
    keep.release(slot(0), up(Nanos::MAX - 1));
    assert_eq!(replayed(&mut keep, slot(0), down(0)).len(), 1);
}

#[test]
fn a_heartbeat_of_the_next_life_of_a_route_covers_nothing_of_the_one_before() {
    let mut keep = Keep::new(8 * BLOCK);
    keep.push(slot(0), peer(), 1, b"lost");
    keep.stamp(10 * MS);
    let evidence = Evidence { standing: Standing::Up { since_ns: 20 * MS }, completed_sent_ns: 30 * MS };
    assert_eq!(replayed(&mut keep, slot(0), evidence), [(1, b"lost".to_vec())]);
    keep.push(slot(0), peer(), 2, b"carried");
    keep.stamp(21 * MS);
    assert_eq!(replayed(&mut keep, slot(0), evidence), []);
    assert_eq!(keep.route(0), Some(slot(0)));
    keep.tidy();
    assert_eq!((keep.route(0), keep.route(1)), (Some(slot(900)), None));
}

#[test]
fn a_frame_that_was_sent_again_is_kept_for_its_new_route_and_remembers_its_age() {
    let mut keep = Keep::new(8 * BLOCK);
    keep.push(slot(0), peer(), 7, &[7; BLOCK + 1]);
    keep.stamp(10 * MS);
    let mut buffer = vec![0; BLOCK + 1];
    assert_eq!(keep.move_first(slot(0), slot(1), &mut buffer[..BLOCK]), None, "no room");
    let kept = keep.move_first(slot(0), slot(1), &mut buffer).unwrap();
    assert_eq!((kept.sequence, kept.first_sent_ns, buffer), (7, 10 * MS, vec![7; BLOCK + 1]));
    keep.stamp(15 * MS);
    keep.release(slot(1), up(11 * MS));
    assert_eq!(keep.lost(slot(1), down(11 * MS)), Some(kept), "what the first route had sent counts no more");
    keep.release(slot(1), up(16 * MS));
    assert_eq!(keep.bytes(), 0);
}

#[test]
fn want_of_room_costs_the_oldest_frames_of_the_route_that_has_the_most() {
    let mut keep = Keep::new(8 * BLOCK);
    keep.push(slot(5), peer(), 1, b"other");
    for sequence in 2..9 {
        assert_eq!(keep.push(slot(0), peer(), sequence, b"frame"), 0);
    }
    assert_eq!(keep.push(slot(5), peer(), 9, &[9; 3 * BLOCK]), 3);
    assert_eq!(keep.push(slot(5), peer(), 10, &[1; 8 * BLOCK + 1]), 1, "it never fits");
    keep.stamp(10 * MS);
    let left = |frames: Vec<(u64, Vec<u8>)>| frames.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>();
    assert_eq!(left(replayed(&mut keep, slot(0), down(0))), [5, 6, 7, 8]);
    assert_eq!(left(replayed(&mut keep, slot(5), down(0))), [1, 9]);
    assert_eq!(keep.forget(slot(900)), 6);
    assert_eq!(keep.bytes(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Push { route: u32, length: usize },
    Stamp,
    Complete { route: u32, back_ns: Nanos },
    Die { route: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 0usize..300, 1 => 0usize..3 * BLOCK];
    prop_oneof![
        6 => (0u32..3, length).prop_map(|(route, length)| Step::Push { route, length }),
        3 => Just(Step::Stamp),
        2 => (0u32..3, 0..3 * MS).prop_map(|(route, back_ns)| Step::Complete { route, back_ns }),
        1 => (0u32..3).prop_map(|route| Step::Die { route }),
    ]
}

proptest! {
    /// Against a model of plain queues: nothing is let go before its time, nothing is changed, order stays, and no block
    /// goes astray.
    #[test]
    fn what_is_not_covered_can_be_sent_again_as_it_was(steps in prop::collection::vec(step(), 1..300)) {
        let mut keep = Keep::new(64 * BLOCK);
        let mut model: Vec<VecDeque<(u64, Vec<u8>, Nanos)>> = vec![VecDeque::new(); 3];
        let (mut now, mut sequence) = (10 * MS, 0);
        for step in steps {
            now += MS / 4;
            match step {
                Step::Push { route, length } => {
                    sequence += 1;
                    let byte = u8::try_from(sequence % 251).unwrap();
                    let frame = vec![byte; length];
                    let mut overflow = keep.push(slot(route), peer(), sequence, &frame);
                    model[route as usize].push_back((sequence, frame, UNSENT));
                    let blocks = |queue: &VecDeque<(u64, Vec<u8>, Nanos)>| -> usize {
                        queue.iter().map(|(_, frame, _)| frame.len().div_ceil(BLOCK).max(1)).sum()
                    };
                    // The new frame was last: whatever had to go went before it.
                    while overflow > 0 {
                        let (newest, rest) = (model[route as usize].pop_back().unwrap(), &mut model);
                        let most = rest.iter().map(blocks).max().unwrap();
                        let victims: Vec<usize> = (0..3).filter(|r| blocks(&rest[*r]) == most).collect();
                        // Among equals any may be taken: see which one the keep took.
                        let first = |r: usize| keep.first(slot(u32::try_from(r).unwrap())).map(|e| e.kept.sequence);
                        let victim = victims.iter().copied().find(|r| first(*r) != rest[*r].front().map(|f| f.0));
                        let victim = victim.expect("a frame of the longest route went");
                        rest[victim].pop_front();
                        model[route as usize].push_back(newest);
                        overflow -= 1;
                    }
                }
                Step::Stamp => {
                    keep.stamp(now);
                    let unsent = model.iter_mut().flatten().filter(|(.., sent_ns)| *sent_ns == UNSENT);
                    unsent.for_each(|(.., sent_ns)| *sent_ns = now);
                }
                Step::Complete { route, back_ns } => {
                    let evidence = up(now - back_ns);
                    keep.release(slot(route), evidence);
                    let queue = &mut model[route as usize];
                    while queue.front().is_some_and(|(.., sent_ns)| {
                        sent_ns.saturating_add(OVERTAKING_NS) <= evidence.completed_sent_ns
                    }) {
                        queue.pop_front();
                    }
                }
                Step::Die { route } => {
                    let again = replayed(&mut keep, slot(route), down(0));
                    let queue = &mut model[route as usize];
                    let wanted: Vec<_> = queue.drain(..).map(|(sequence, frame, _)| (sequence, frame)).collect();
                    prop_assert_eq!(again, wanted);
                    keep.forget(slot(900));
                }
            }
            keep.tidy();
            let frames = model.iter().flatten();
            let blocks: usize = frames.map(|(_, frame, _)| frame.len().div_ceil(BLOCK).max(1)).sum();
            prop_assert_eq!(keep.bytes(), (blocks * BLOCK) as u64);
        }
    }
}

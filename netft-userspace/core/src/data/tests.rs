//! Two ends of cluster traffic.

use super::*;
use crate::keys::{Directions, SessionKeys};

const LEVELS: [Level; 3] = [Level::Clear, Level::Signed, Level::Encrypted];

const ROUTE: DataRoute = DataRoute { local: [1; 16], remote: [2; 16], remote_slot: 3 };
const OTHER: DataRoute = DataRoute { local: [1; 16], remote: [9; 16], remote_slot: 4 };

fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Keys of an epoch as node 1 or 2 has them, which sends at the level given.
fn keys_at(end: u16, epoch: u32, levels: (Level, Level)) -> SessionKeys {
    fn both<T>(end: u16, one: T, two: T) -> Directions<T> {
        let (send, receive) = if end == 1 { (one, two) } else { (two, one) };
        Directions { send, receive }
    }
    let words = both(end, [1, epoch.into()], [2, epoch.into()]);
    let byte = epoch.to_le_bytes()[0];
    let data = both(end, [byte; 32], [byte ^ 0x80; 32]);
    SessionKeys {
        epoch,
        version: wire::VERSION,
        level: both(end, levels.0, levels.1),
        heartbeat: words,
        header: words,
        data,
        offer: data,
    }
}

fn keys(end: u16, epoch: u32) -> SessionKeys {
    keys_at(end, epoch, (Level::Encrypted, Level::Signed))
}

fn live(current: SessionKeys, other: Option<SessionKeys>) -> LiveKeys {
    LiveKeys { current: Some(current), other }
}

fn ends(stored: u64, now: Nanos) -> (DataPlane, DataPlane) {
    ends_at((Level::Encrypted, Level::Signed), stored, now)
}

/// Node 1 sends at the first level, node 2 at the second.
fn ends_at(levels: (Level, Level), stored: u64, now: Nanos) -> (DataPlane, DataPlane) {
    let mut a = DataPlane::new(7, node(1), stored, now);
    let mut b = DataPlane::new(7, node(2), 0, 0);
    a.set_session(node(2), &live(keys_at(1, 5, levels), None));
    b.set_session(node(1), &live(keys_at(2, 5, levels), None));
    let back = DataRoute { local: ROUTE.remote, remote: ROUTE.local, ..ROUTE };
    a.set_way(Slot::new(3).unwrap(), node(2), &back);
    b.set_way(Slot::new(3).unwrap(), node(1), &back);
    b.set_way(
        Slot::new(4).unwrap(),
        node(1),
        &DataRoute { local: OTHER.remote, remote: OTHER.local, ..OTHER },
    );
    (a, b)
}

fn sealed(plane: &mut DataPlane, frame: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; HEADROOM];
    datagram.extend_from_slice(frame);
    plane.seal(node(2), &ROUTE, Checksum::Complete, &mut datagram).unwrap();
    datagram
}

/// What was in a datagram.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Frame(Vec<u8>, Checksum),
    Probe(Probe),
}

fn open(plane: &mut DataPlane, datagram: &[u8]) -> Result<Got, DataReject> {
    let mut copy = datagram.to_vec();
    let opened = plane.open(ROUTE.remote, ROUTE.local, Outer::Checked, &mut copy)?;
    assert_eq!(opened.slot, Slot::new(3).unwrap());
    Ok(match opened.message {
        Message::Frame(frame, checksum) => Got::Frame(frame.to_vec(), checksum),
        Message::Probe(probe) => Got::Probe(probe),
    })
}

#[test]
fn a_frame_arrives_once_as_it_was_sent() {
    for level in LEVELS {
        let (mut a, mut b) = ends_at((level, Level::Signed), 0, 0);
        let datagram = sealed(&mut a, b"the frame");
        let readable = datagram.windows(9).any(|window| window == b"the frame");
        assert_eq!(readable, level != Level::Encrypted);
        assert_eq!(open(&mut b, &datagram), Ok(Got::Frame(b"the frame".to_vec(), Checksum::Complete)));
        assert_eq!(open(&mut b, &datagram), Err(DataReject::Replay));
    }
}

#[test]
fn each_end_sends_at_its_own_level_and_no_other_is_taken_for_it() {
    for one in LEVELS {
        for two in LEVELS {
            let (mut a, mut b) = ends_at((one, two), 0, 0);
            assert!(open(&mut b, &sealed(&mut a, b"there")).is_ok());
            let mut back = vec![0; HEADROOM + 4];
            b.seal(node(1), &ROUTE, Checksum::Complete, &mut back).unwrap();
            assert!(open(&mut a, &back).is_ok());
            if one != two {
                // Who expects another level of these keys doesn't open what is at this one.
                let (_, mut other) = ends_at((two, two), 0, 0);
                assert_eq!(open(&mut other, &sealed(&mut a, b"there")), Err(DataReject::Tag));
            }
        }
    }
}

#[test]
fn the_same_sequence_over_another_route_is_another_message() {
    let (mut a, _) = ends(0, 0);
    let (mut again, _) = ends(0, 0);
    let one = sealed(&mut a, &[0; 64]);
    let mut other = vec![0; HEADROOM + 64];
    again.seal(node(2), &DataRoute { remote_slot: 4, ..ROUTE }, Checksum::Complete, &mut other).unwrap();
    assert_eq!(one[24..32], other[24..32], "the sequence");
    assert_ne!(one[HEADROOM..], other[HEADROOM..], "what frames of zeros are encrypted with");
}

#[test]
fn the_state_of_its_checksum_comes_with_a_frame() {
    let (mut a, mut b) = ends(0, 0);
    for checksum in [Checksum::Partial, Checksum::Complete] {
        let mut datagram = [0; HEADROOM + 1];
        a.seal(node(2), &ROUTE, checksum, &mut datagram).unwrap();
        assert_eq!(open(&mut b, &datagram), Ok(Got::Frame(vec![0], checksum)));
    }
}

#[test]
fn no_changed_byte_is_accepted_and_none_closes_the_window() {
    for level in LEVELS {
        let (mut a, mut b) = ends_at((level, Level::Signed), 0, 0);
        let datagram = sealed(&mut a, b"some frame");
        // At level clear nothing vouches for the frame itself.
        let covered = if level == Level::Clear { HEADROOM } else { datagram.len() };
        for at in 0..covered {
            for bit in 0..8 {
                let mut changed = datagram.clone();
                changed[at] ^= 1 << bit;
                assert!(open(&mut b, &changed).is_err(), "{level} byte {at} bit {bit}");
            }
        }
        for len in 0..datagram.len() {
            assert!(open(&mut b, &datagram[..len]).is_err(), "{level} length {len}");
        }
        let longer = [&datagram[..], b"x"].concat();
        assert!(open(&mut b, &longer).is_err(), "{level}");
        let mut elsewhere = datagram.clone();
        assert_eq!(b.open(ROUTE.remote, [9; 16], Outer::Checked, &mut elsewhere), Err(DataReject::Route));
        assert!(open(&mut b, &datagram).is_ok());
    }
}

#[test]
fn at_level_clear_the_datagrams_checksum_vouches_for_a_frame() {
    // Of headers that bring the sum of the whole datagram to all ones, as a sender's checksum does.
    let headers = |datagram: &[u8]| Outer::Unchecked(complement(sum(datagram)).into());
    for level in LEVELS {
        let (mut a, mut b) = ends_at((level, Level::Signed), 0, 0);
        let datagram = sealed(&mut a, b"some frame");
        let outer = headers(&datagram);
        let mut open = |outer, datagram: &[u8]| {
            b.open(ROUTE.remote, ROUTE.local, outer, &mut datagram.to_vec()).map(drop)
        };
        for bit in 0..8 * (datagram.len() - HEADROOM) {
            let mut changed = datagram.clone();
            changed[HEADROOM + bit / 8] ^= 1 << (bit % 8);
            let reason = if level == Level::Clear { DataReject::Checksum } else { DataReject::Tag };
            assert_eq!(open(outer, &changed), Err(reason), "{level} bit {bit}");
        }
        assert_eq!(open(outer, &datagram), Ok(()), "none of that closed the window");
    }
}

#[test]
fn each_wrong_field_has_its_reason() {
    let (mut a, mut b) = ends(0, 0);
    let datagram = sealed(&mut a, b"frame");
    let reject = |change: fn(&mut Header)| {
        let mut data: wire::Data = bytemuck::pod_read_unaligned(&datagram[..HEADROOM]);
        change(&mut data.header);
        let mut changed = datagram.clone();
        changed[..HEADROOM].copy_from_slice(bytemuck::bytes_of(&data));
        open(&mut ends(0, 0).1, &changed).unwrap_err()
    };
    assert_eq!(reject(|h| h.magic = 0), DataReject::Malformed);
    assert_eq!(reject(|h| h.kind = wire::kind::HELLO), DataReject::Malformed);
    assert_eq!(reject(|h| h.version ^= 1), DataReject::Version);
    assert_eq!(reject(|h| h.cluster_id = 8), DataReject::OtherCluster);
    assert_eq!(reject(|h| h.destination = 3), DataReject::Destination);
    assert_eq!(reject(|h| h.source = 3), DataReject::Source);
    assert_eq!(reject(|h| h.source = 0xffff), DataReject::Source);
    assert_eq!(reject(|h| h.slot = 4), DataReject::Route);
    assert_eq!(reject(|h| h.slot = wire::NO_SLOT), DataReject::Route);
    assert_eq!(reject(|h| h.key_epoch = 6), DataReject::Epoch);
    assert_eq!(reject(|h| h.sequence += 1), DataReject::Tag);
    assert_eq!(open(&mut b, b""), Err(DataReject::Malformed));
}

#[test]
fn probes_are_sealed_like_frames_and_told_apart() {
    let (mut a, mut b) = ends(0, 0);
    for probe in [Probe::Solicit(u64::MAX - 7), Probe::Answer(7)] {
        let datagram = a.probe(node(2), &ROUTE, probe).unwrap();
        for at in 0..datagram.len() {
            let mut changed = datagram;
            changed[at] ^= 1;
            assert!(open(&mut b, &changed).is_err(), "byte {at}");
        }
        assert!(open(&mut b, &datagram[..datagram.len() - 1]).is_err());
        assert_eq!(open(&mut b, &datagram), Ok(Got::Probe(probe)));
        assert_eq!(open(&mut b, &datagram), Err(DataReject::Replay));
    }
}

#[test]
fn a_frame_that_is_sealed_for_another_route_as_well_is_the_same_frame() {
    let (mut a, mut b) = ends(0, 0);
    let first = a.number(node(2), 2).unwrap();
    let mut seal = |route: &DataRoute, sequence| {
        let mut datagram = [0; HEADROOM + 1];
        a.seal_numbered(node(2), route, sequence, Checksum::Complete, &mut datagram).unwrap();
        datagram
    };
    let (one, mut again, two) = (seal(&ROUTE, first), seal(&OTHER, first), seal(&ROUTE, first + 1));
    assert!(b.open(OTHER.remote, OTHER.local, Outer::Checked, &mut again).is_ok());
    assert_eq!(open(&mut b, &one), Err(DataReject::Replay));
    assert!(open(&mut b, &two).is_ok());
    assert!(open(&mut b, &sealed(&mut a, b"next")).is_ok(), "a reserved sequence is nobody else's");
    assert!(a.high_water() >= first + 2);
}

#[test]
fn a_padded_probe_is_a_probe_of_any_length() {
    let (mut a, mut b) = ends(0, 0);
    for length in [PROBE_LEN, 1000] {
        let mut datagram = vec![7; HEADROOM + length];
        a.padded_probe(node(2), &ROUTE, 99, &mut datagram).unwrap();
        assert!(open(&mut b, &datagram[..datagram.len() - 1]).is_err(), "cut short");
        assert_eq!(open(&mut b, &datagram), Ok(Got::Probe(Probe::Solicit(99))));
    }
    assert!(a.padded_probe(node(2), &ROUTE, 99, &mut [0; HEADROOM + 7]).is_err());
}

#[test]
fn the_number_of_a_probe_is_authentic_at_every_level() {
    for level in LEVELS {
        let (mut a, mut b) = ends_at((level, level), 0, 0);
        let mut datagram = vec![7; HEADROOM + 1000];
        a.padded_probe(node(2), &ROUTE, 99, &mut datagram).unwrap();
        for at in HEADROOM..HEADROOM + PROBE_LEN {
            let mut forged = datagram.clone();
            forged[at] ^= 1;
            assert_eq!(open(&mut b, &forged), Err(DataReject::Tag), "{level}, byte {at}");
        }
        assert_eq!(open(&mut b, &datagram), Ok(Got::Probe(Probe::Solicit(99))));
    }
}

#[test]
fn threads_share_numbering_and_window() {
    let (mut a, mut b) = ends(0, 0);
    let (mut other_a, mut other_b) = (a.clone(), b.clone());
    let first = sealed(&mut a, b"x");
    let second = sealed(&mut other_a, b"x");
    assert_ne!(first, second, "another sequence");
    assert_eq!(a.high_water(), other_a.high_water());
    assert!(open(&mut b, &first).is_ok());
    assert_eq!(open(&mut other_b, &first), Err(DataReject::Replay));
    assert!(open(&mut other_b, &second).is_ok());
    // New keys are there at once for whoever shares the session, a new session when it is shared.
    a.set_session(node(2), &live(keys(1, 6), None));
    b.set_session(node(1), &live(keys(2, 6), None));
    assert!(open(&mut other_b, &sealed(&mut other_a, b"x")).is_ok());
    a.remove_session(node(2));
    assert!(other_a.seal(node(2), &ROUTE, Checksum::Complete, &mut [0; HEADROOM]).is_err());
    a.set_session(node(2), &live(keys(1, 6), None));
    other_a.share(node(2), a.session(node(2)).unwrap());
    assert!(open(&mut other_b, &sealed(&mut other_a, b"x")).is_ok());
}

#[test]
fn a_restarted_sender_goes_on_above_what_was_accepted() {
    let (mut a, mut b) = ends(0, 1_000);
    for _ in 0..5_000 {
        assert!(open(&mut b, &sealed(&mut a, b"x")).is_ok());
    }
    let (mut restarted, _) = ends(a.high_water(), 2_000);
    assert!(open(&mut b, &sealed(&mut restarted, b"x")).is_ok());
    let (mut without_map, _) = ends(0, 1_000_000);
    assert!(open(&mut b, &sealed(&mut without_map, b"x")).is_ok());
}

#[test]
fn while_keys_are_replaced_nothing_is_lost_and_nothing_is_received_twice() {
    let (mut a, mut b) = ends(0, 0);
    let (early, late) = (sealed(&mut a, b"early"), sealed(&mut a, b"late"));
    assert!(open(&mut b, &early).is_ok());
    // The answering end accepts the new keys first, then the other sends with them, then it does itself.
    b.set_session(node(1), &live(keys(2, 5), Some(keys(2, 6))));
    a.set_session(node(2), &live(keys(1, 6), Some(keys(1, 5))));
    let new = sealed(&mut a, b"new");
    let back = {
        let mut datagram = vec![0; HEADROOM + 1];
        b.seal(node(1), &ROUTE, Checksum::Complete, &mut datagram).unwrap();
        datagram
    };
    assert!(open(&mut b, &new).is_ok() && open(&mut a, &back).is_ok());
    b.set_session(node(1), &live(keys(2, 6), Some(keys(2, 5))));
    assert_eq!(open(&mut b, &early), Err(DataReject::Replay));
    assert!(open(&mut b, &late).is_ok(), "it was under way");
    for datagram in [&late, &new] {
        assert_eq!(open(&mut b, datagram), Err(DataReject::Replay));
    }
    b.set_session(node(1), &live(keys(2, 6), None));
    assert_eq!(open(&mut b, &late), Err(DataReject::Epoch));
    b.remove_session(node(1));
    assert_eq!(open(&mut b, &new), Err(DataReject::Source));
}

#[test]
fn keys_wear_out_and_are_fresh_again_when_replaced() {
    let (mut a, _) = ends(0, 0);
    assert_eq!(a.worn().next(), None);
    let used = |a: &DataPlane, count: u64| {
        a.session(node(2)).unwrap().next_sequence.fetch_add(count, Relaxed);
    };
    used(&a, RENEW_AFTER);
    assert_eq!(a.worn().collect::<Vec<_>>(), [node(2)]);
    sealed(&mut a, b"still");
    used(&a, MESSAGES_MAX);
    assert!(a.seal(node(2), &ROUTE, Checksum::Complete, &mut [0; HEADROOM]).is_err());
    a.set_session(node(2), &live(keys(1, 6), Some(keys(1, 5))));
    assert_eq!(a.worn().next(), None);
    sealed(&mut a, b"again");
}

#[test]
fn frames_go_where_their_mac_says() {
    let mut table = FrameTable::default();
    table.set(node(2), [2, 0, 0, 0, 0, 2]);
    table.set(node(3), [2, 0, 0, 0, 0, 3]);
    let to = |table: &FrameTable, mac: [u8; 6]| table.destination(&[&mac[..], &[0; 8]].concat());
    assert_eq!(to(&table, [2, 0, 0, 0, 0, 3]), FrameDestination::Peer(node(3)));
    assert_eq!(to(&table, [0xff; 6]), FrameDestination::AllPeers);
    assert_eq!(to(&table, [0x33, 0x33, 0, 0, 0, 1]), FrameDestination::AllPeers);
    assert_eq!(to(&table, [2, 0, 0, 0, 0, 4]), FrameDestination::Unknown);
    assert_eq!(table.destination(&[0xff; 13]), FrameDestination::Unknown);
    table.set(node(3), [2, 0, 0, 0, 0, 4]);
    assert_eq!(to(&table, [2, 0, 0, 0, 0, 3]), FrameDestination::Unknown);
    table.remove(node(3));
    assert_eq!(to(&table, [2, 0, 0, 0, 0, 4]), FrameDestination::Unknown);
}

//! The fence as the kernel runs it, in XDP and in TC: rules 1 to 4, 6, 8 and 15 of `docs/ownership.md`, each by frames that pass or
//! don't, for every form in which a VIP can be in a frame.

use super::frames::leg_frame;
use super::node::{FAMILIES, Family, address, mac, setup};
use super::program::{boottime_ns, object};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use netft_common::fence::{MAX_VOTERS, VipEntry, Voter, mac_word, name, quorum, vip_flags, vouch_word};
use netft_common::map::{self, Counter};
use netft_common::packet::mapped;
use netft_common::wire::{Heartbeat, kind};

const MS: u64 = 1_000_000;
const OWN: u16 = 2;
const VIP: [u8; 4] = [10, 77, 2, 100];
const VIP6: [u8; 16] = [0xfd, 0x77, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const CLIENT: [u8; 4] = [10, 77, 2, 200];
const CLIENT6: [u8; 16] = [0xfd, 0x77, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const NUMBER: u32 = 5;
const EPOCH: u64 = 17;
const LEASE_NS: u64 = 60_000 * MS;
const TIMEOUT_NS: u64 = 60_000 * MS;
/// Loopback's, by which test runs come in.
const LOOPBACK_MAC: [u8; 6] = [0; 6];

/// The programs, and the words of node 2, which owns the VIP and is vouched for by nodes 1 and 3.
struct Fence {
    ebpf: Ebpf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `netft`, in XDP.
    Xdp,
    /// `netft_in`.
    In,
    /// `netft_out`.
    Out,
}

/// How a frame comes to TC.
#[derive(Clone, Copy, Default)]
struct Context {
    came_in_by: u32,
    segments: (u32, u32),
}

impl Fence {
    fn load() -> Self {
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &0u8, true)
            .load(&object("netft"))
            .expect("loading needs root");
        let xdp: &mut Xdp = ebpf.program_mut("netft").expect("it is there").try_into().expect("XDP");
        xdp.load().expect("the verifier accepts it");
        for name in ["netft_in", "netft_out"] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).expect("it is there").try_into().expect("TC");
            program.load().expect("the verifier accepts it");
        }
        let mut this = Self { ebpf };
        let setup = setup(OWN);
        this.set::<[u8; 32]>(map::name::NODE, 0, bytemuck::cast(setup.node));
        for (slot, config) in &setup.slots {
            this.set::<[u8; 128]>(map::name::SLOTS, *slot, bytemuck::cast(*config));
        }
        this.tick(boottime_ns());
        this.state(|words| {
            words[1] = 10;
            words[2] = quorum::MAJORITY;
            words[3] = TIMEOUT_NS;
        });
        this.voters(&[1, 2, 3], LEASE_NS);
        this.set(name::OWNED, NUMBER, EPOCH);
        this.set(name::VOUCH_INDEX, OWN.into(), vouch_word(10));
        [1, 3].into_iter().for_each(|node| this.set(name::EVIDENCE, node, boottime_ns()));
        this.vip(vip_flags::INSTALLED);
        this.macs(&[LOOPBACK_MAC, mac(OWN)]);
        this
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        self.ebpf.map_mut(name).expect("the object has it").try_into().expect("an array")
    }

    fn set<V: aya::Pod>(&mut self, name: &str, index: u32, value: V) {
        self.array::<V>(name).set(index, value, 0).expect("in range");
    }

    fn get(&mut self, name: &str, index: u32) -> u64 {
        self.array::<u64>(name).get(&index, 0).expect("in range")
    }

    fn tick(&mut self, tick_ns: u64) {
        self.set(map::name::ENGINE, 0, [tick_ns, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// Changes words of the `FenceState`: generation, applied, quorum, timeout, nine voters, addresses.
    fn state(&mut self, change: impl FnOnce(&mut [u64; 16])) {
        let mut fence = self.array::<[u64; 16]>(name::FENCE);
        let mut words = fence.get(&0, 0).expect("in range");
        change(&mut words);
        fence.set(0, words, 0).expect("in range");
    }

    fn voters(&mut self, nodes: &[u16], lease_ns: u64) {
        self.state(|words| {
            words[4..4 + MAX_VOTERS].fill(0);
            for (word, node) in words[4..].iter_mut().zip(nodes) {
                *word = Voter { node: *node, sets: 1, lease_ns }.to_word();
            }
        });
    }

    fn vip(&mut self, flags: u32) {
        let map = self.ebpf.map_mut(name::VIPS).expect("the object has it");
        let mut vips: HashMap<_, [u64; 2], u64> = map.try_into().expect("a hash");
        for address in [mapped(VIP), VIP6] {
            let entry = VipEntry { vip: NUMBER, flags };
            vips.insert(bytemuck::cast::<_, [u64; 2]>(address), entry.to_word(), 0).expect("room");
        }
        self.state(|words| words[13] = 2);
    }

    fn macs(&mut self, macs: &[[u8; 6]]) {
        let map = self.ebpf.map_mut(name::MACS).expect("the object has it");
        let mut known: HashMap<_, u64, u32> = map.try_into().expect("a hash");
        macs.iter().for_each(|mac| known.insert(mac_word(*mac), 1, 0).expect("room"));
    }

    fn counts(&self) -> Vec<u64> {
        let map = self.ebpf.map(map::name::COUNTERS).expect("the object has it");
        let counters: PerCpuArray<_, u64> = map.try_into().expect("a per-CPU array");
        (0..Counter::COUNT).map(|index| counters.get(&index, 0).expect("counter").iter().sum()).collect()
    }

    /// Whether a frame passes; if not, the counter that says why not.
    fn judge(&self, way: Way, frame: &[u8], context: Context) -> Result<(), &'static str> {
        const XDP_DROP: u32 = 1;
        const XDP_PASS: u32 = 2;
        const TC_NEXT: u32 = u32::MAX;
        const TC_DROP: u32 = 2;
        let before = self.counts();
        let words = skb_context(context);
        let ctx_in = (way != Way::Xdp && (context.came_in_by, context.segments) != (0, (0, 0)))
            .then(|| bytemuck::cast_slice(&words));
        let options = TestRunOptions { data_in: Some(frame), ctx_in, ..TestRunOptions::new() };
        let value = match way {
            Way::Xdp => self.xdp().test_run(options).expect("the kernel runs it").return_value,
            _ => self.tc(way).test_run(options).expect("the kernel runs it").return_value,
        };
        let grown = before.iter().zip(self.counts()).zip(Counter::NAMES);
        let grown: Vec<_> = grown
            .filter(|((before, after), name)| after > before && name.starts_with("fence"))
            .map(|(_, name)| name)
            .collect();
        match (way, value) {
            (Way::Xdp, XDP_PASS) | (Way::In | Way::Out, TC_NEXT) => {
                assert_eq!(grown, Vec::<&str>::new());
                Ok(())
            }
            (Way::Xdp, XDP_DROP) | (Way::In | Way::Out, TC_DROP) => {
                let [why] = grown[..] else { panic!("dropped for {grown:?}") };
                Err(why)
            }
            (way, other) => panic!("{way:?}: {other}"),
        }
    }

    fn xdp(&self) -> &Xdp {
        self.ebpf.program("netft").expect("it is there").try_into().expect("XDP")
    }

    fn tc(&self, way: Way) -> &SchedClassifier {
        let name = if way == Way::In { "netft_in" } else { "netft_out" };
        self.ebpf.program(name).expect("it is there").try_into().expect("TC")
    }

    /// The same for every frame that speaks for the VIP or is meant for it.
    fn all(&self, expected: Result<(), &'static str>) {
        for (what, frame) in spoken() {
            for tagged in [frame.clone(), with_tag(&frame)] {
                assert_eq!(
                    self.judge(Way::Out, &tagged, Context::default()),
                    expected,
                    "{what} on its way out"
                );
            }
        }
        for (what, frame) in asked() {
            for way in [Way::Xdp, Way::In] {
                assert_eq!(self.judge(way, &frame, Context::default()), expected, "{what} by {way:?}");
            }
            assert_eq!(
                self.judge(Way::Xdp, &with_tag(&frame), Context::default()),
                expected,
                "{what}, tagged"
            );
        }
    }
}

/// `__sk_buff` of a test run; only what the kernel takes over is set (net/bpf/test_run.c, convert___skb_to_skb).
fn skb_context(context: Context) -> [u32; 48] {
    const INGRESS_IFINDEX: usize = 9;
    const GSO_SEGS: usize = 41;
    const GSO_SIZE: usize = 44;
    const WIRE_LEN: usize = 40;
    let mut words = [0; 48];
    words[INGRESS_IFINDEX] = context.came_in_by;
    (words[GSO_SEGS], words[GSO_SIZE]) = context.segments;
    words[WIRE_LEN] = if context.segments.0 > 0 { 30_000 } else { 0 };
    words
}

fn ethernet(destination: [u8; 6], ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&destination[..], &mac(OWN), &ethertype, rest].concat()
}

fn with_tag(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0xa0, 0x64], &frame[12..]].concat()
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    [&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0][..], &source, &destination, &[0; 20]].concat()
}

fn ipv6(next: u8, source: [u8; 16], destination: [u8; 16], rest: &[u8]) -> Vec<u8> {
    [&[0x60, 0, 0, 0, 0, 24, next, 255][..], &source, &destination, rest].concat()
}

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac(OWN), &sender, &[0; 6], &target].concat()
}

fn discovery(kind: u8, target: [u8; 16]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat()
}

const V4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
const V6: [u8; 2] = [0x86, 0xdd];

/// Everything by which a host says that the VIP is its own.
fn spoken() -> Vec<(&'static str, Vec<u8>)> {
    let client = mac(9);
    vec![
        ("IPv4", ethernet(client, V4, &ipv4(VIP, CLIENT))),
        ("a gratuitous request", ethernet([255; 6], ARP, &arp(1, VIP, VIP))),
        ("a gratuitous reply", ethernet([255; 6], ARP, &arp(2, VIP, VIP))),
        ("an ARP reply", ethernet(client, ARP, &arp(2, VIP, CLIENT))),
        ("an ARP request from it", ethernet([255; 6], ARP, &arp(1, VIP, CLIENT))),
        ("IPv6", ethernet(client, V6, &ipv6(6, VIP6, CLIENT6, &[0; 20]))),
        ("an advertisement", ethernet(client, V6, &ipv6(58, LINK_LOCAL, CLIENT6, &discovery(136, VIP6)))),
        ("a solicitation from it", ethernet(client, V6, &ipv6(58, VIP6, CLIENT6, &discovery(135, CLIENT6)))),
    ]
}

/// Everything that a host with the VIP would take, sent to its own MAC.
fn asked() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("IPv4", ethernet(LOOPBACK_MAC, V4, &ipv4(CLIENT, VIP))),
        ("an ARP request", ethernet(LOOPBACK_MAC, ARP, &arp(1, CLIENT, VIP))),
        ("IPv6", ethernet(LOOPBACK_MAC, V6, &ipv6(6, CLIENT6, VIP6, &[0; 20]))),
        ("a solicitation", ethernet(LOOPBACK_MAC, V6, &ipv6(58, CLIENT6, LINK_LOCAL, &discovery(135, VIP6)))),
    ]
}

#[test]
fn rule_3_an_owner_that_a_majority_vouched_for_is_let_through_and_nobody_else() {
    let mut fence = Fence::load();
    fence.all(Ok(()));
    fence.set(name::OWNED, NUMBER, 0u64);
    fence.all(Err("fence_not_owner"));
    fence.set(name::OWNED, NUMBER, EPOCH);
    // Itself and one of three is enough; itself alone isn't, nor the others' word where its own log knows of a loss.
    fence.set(name::EVIDENCE, 1, 0u64);
    fence.all(Ok(()));
    fence.set(name::EVIDENCE, 3, 0u64);
    fence.all(Err("fence_no_majority"));
    fence.set(name::EVIDENCE, 3, boottime_ns());
    fence.set(name::VOUCH_INDEX, OWN.into(), vouch_word(11));
    fence.all(Err("fence_no_majority"));
    fence.state(|words| words[1] = 11);
    fence.all(Ok(()));
    // Both majorities of a joint configuration.
    fence.state(|words| {
        for (word, node) in words[6..].iter_mut().zip([4, 5]) {
            *word = Voter { node, sets: 2, lease_ns: LEASE_NS }.to_word();
        }
        words[4] = Voter { node: 2, sets: 3, lease_ns: LEASE_NS }.to_word();
    });
    fence.all(Err("fence_no_majority"));
    fence.set(name::EVIDENCE, 5, boottime_ns());
    fence.set(name::EVIDENCE, 1, boottime_ns());
    fence.all(Ok(()));
}

#[test]
fn rule_3_leases_and_the_engines_tick_end_by_time_alone() {
    let mut fence = Fence::load();
    let now = boottime_ns();
    for node in [1, 3] {
        fence.set(name::EVIDENCE, node, now - LEASE_NS - MS);
    }
    fence.all(Err("fence_no_majority"));
    for node in [1, 3] {
        fence.set(name::EVIDENCE, node, boottime_ns() + 60_000 * MS);
    }
    fence.all(Err("fence_no_majority"));
    fence.set(name::EVIDENCE, 1, boottime_ns());
    fence.all(Ok(()));
    fence.tick(boottime_ns() - TIMEOUT_NS - MS);
    fence.all(Err("fence_engine_stalled"));
    fence.tick(0);
    fence.all(Err("fence_engine_stalled"));
    fence.tick(boottime_ns());
    fence.state(|words| words[3] = 0);
    fence.all(Err("fence_engine_stalled"));
}

#[test]
fn rule_5_the_longest_loop_counts_nine_voters_by_their_own_leases() {
    let mut fence = Fence::load();
    fence.voters(&[1, 2, 3, 4, 5, 6, 7, 8, 9], LEASE_NS);
    fence.all(Err("fence_no_majority"));
    let before_ns = boottime_ns() - 5 * MS;
    [4, 5].into_iter().for_each(|node| fence.set(name::EVIDENCE, node, before_ns));
    fence.all(Ok(()));
    fence.state(|words| words[12] = Voter { node: 5, sets: 1, lease_ns: MS }.to_word());
    fence.set(name::EVIDENCE, 4, 0u64);
    fence.all(Err("fence_no_majority"));
}

#[test]
fn a_fence_that_is_not_set_up_or_being_changed_is_closed() {
    let mut fence = Fence::load();
    fence.state(|words| words[0] = 7);
    fence.all(Err("fence_not_ready"));
    fence.state(|words| (words[0], words[2]) = (8, quorum::NOT_READY));
    fence.all(Err("fence_not_ready"));
}

#[test]
fn rule_15_without_a_quorum_nobody_need_vouch() {
    let mut fence = Fence::load();
    [1, 3].into_iter().for_each(|node| fence.set(name::EVIDENCE, node, 0u64));
    fence.state(|words| words[2] = quorum::NONE);
    fence.all(Ok(()));
    fence.set(name::OWNED, NUMBER, 0u64);
    fence.all(Err("fence_not_owner"));
}

#[test]
fn rule_6_only_what_is_for_or_from_this_host_is_judged() {
    let mut fence = Fence::load();
    fence.set(name::OWNED, NUMBER, 0u64);
    for (what, frame) in spoken() {
        let transit = Context { came_in_by: 1, ..Context::default() };
        assert_eq!(fence.judge(Way::Out, &frame, transit), Ok(()), "{what}, which came in elsewhere");
        let large = Context { segments: (20, 1_400), ..Context::default() };
        assert_eq!(fence.judge(Way::Out, &frame, large), Err("fence_not_owner"), "{what}, a super-packet");
    }
    for (what, frame) in asked() {
        for other in [[2, 0, 0, 0, 0, 99], [255; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            let elsewhere = [&other, &frame[6..]].concat();
            for way in [Way::Xdp, Way::In] {
                assert_eq!(fence.judge(way, &elsewhere, Context::default()), Ok(()), "{what} to another MAC");
            }
        }
        let to_own = [&mac(OWN), &frame[6..]].concat();
        assert_eq!(fence.judge(Way::Xdp, &to_own, Context::default()), Err("fence_not_owner"), "{what}");
    }
    // Clients here, and everybody else's traffic.
    for frame in [
        ethernet(mac(9), V4, &ipv4(CLIENT, VIP)),
        ethernet([255; 6], ARP, &arp(1, CLIENT, VIP)),
        ethernet(mac(9), V6, &ipv6(58, CLIENT6, LINK_LOCAL, &discovery(135, VIP6))),
    ] {
        assert_eq!(fence.judge(Way::Out, &frame, Context::default()), Ok(()));
    }
    // Not installed here: this host may be the owner's router, but may still not speak for it.
    fence.vip(0);
    for (what, frame) in asked() {
        assert_eq!(fence.judge(Way::Xdp, &frame, Context::default()), Ok(()), "{what}");
        assert_eq!(fence.judge(Way::In, &frame, Context::default()), Ok(()), "{what}");
    }
    for (what, frame) in spoken() {
        assert_eq!(fence.judge(Way::Out, &frame, Context::default()), Err("fence_not_owner"), "{what}");
    }
    // Without VIPs nothing is looked at.
    fence.state(|words| words[13] = 0);
    fence.all(Ok(()));
}

/// Words of the leg that node 2 answers with, and of the maps.
struct Answered {
    leg: Heartbeat,
    evidence: u64,
}

/// Gives leg `kind` of node 1 to node 2.
fn exchange(
    fence: &mut Fence,
    family: Family,
    kind: u8,
    sequence: u64,
    change: impl FnOnce(&mut Heartbeat),
) -> Answered {
    let one = setup(1);
    let leg = one.forge(family, one.request(family, sequence, 1), |leg| {
        leg.header.kind = kind;
        change(leg);
    });
    let frame = leg_frame(1, family, &leg).bytes();
    let mut after = vec![0; frame.len() + 64];
    let options =
        TestRunOptions { data_in: Some(&frame), data_out: Some(&mut after), ..TestRunOptions::new() };
    fence.xdp().test_run(options).expect("the kernel runs it");
    let message = if family == Family::V4 { 42 } else { 62 };
    let end = message + size_of::<Heartbeat>();
    Answered {
        leg: bytemuck::pod_read_unaligned(&after[message..end]),
        evidence: fence.get(name::EVIDENCE, 1),
    }
}

#[test]
fn rules_1_and_2_evidence_is_the_own_stamp_in_legs_2_and_3_that_count() {
    for family in FAMILIES {
        let mut fence = Fence::load();
        fence.set(name::EVIDENCE, 1, 0u64);
        let stamp_ns = boottime_ns() - 3 * MS;
        let mut sequence = 0;
        let mut of = |fence: &mut Fence, kind, vouch_index, initiator_ns, responder_ns| {
            sequence += 1;
            let change = |leg: &mut Heartbeat| {
                leg.vouch_index = vouch_index;
                leg.initiator_sent_ns = initiator_ns;
                leg.responder_sent_ns = responder_ns;
            };
            exchange(fence, family, kind, sequence, change).evidence
        };
        let counts = vouch_word(10);
        assert_eq!(of(&mut fence, kind::REQUEST, counts, stamp_ns, stamp_ns), 0, "leg 1");
        assert_eq!(of(&mut fence, kind::FINAL_REPLY, counts, stamp_ns, stamp_ns), 0, "leg 4");
        assert_eq!(of(&mut fence, kind::REPLY, vouch_word(11), stamp_ns, 1), 0, "a loss that isn't applied");
        assert_eq!(of(&mut fence, kind::REPLY, 0, stamp_ns, 1), 0, "a voter that isn't sure");
        assert_eq!(of(&mut fence, kind::REPLY, counts, boottime_ns() + 60_000 * MS, 1), 0, "from the future");
        assert_eq!(of(&mut fence, kind::REPLY, counts, stamp_ns, 1), stamp_ns, "leg 2");
        assert_eq!(of(&mut fence, kind::REPLY, counts, stamp_ns - MS, 1), stamp_ns, "an older one");
        assert_eq!(of(&mut fence, kind::CONFIRMATION, counts, 1, stamp_ns + MS), stamp_ns + MS, "leg 3");
        // And it is what opens the fence.
        fence.set(name::EVIDENCE, 3, 0u64);
        fence.all(Ok(()));
    }
}

#[test]
fn rule_8_who_answers_with_legs_2_and_3_notes_it_and_says_what_must_be_applied() {
    let mut fence = Fence::load();
    let vouched = |fence: &mut Fence, node: u32| {
        let of = |cpu| cpu * map::MAX_NODES + node;
        let cpus = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1);
        (0..cpus).map(|cpu| fence.get(name::VOUCHED, of(cpu))).max().unwrap_or(0)
    };
    let before_ns = boottime_ns() - 20 * MS;
    for (number, kind) in (1u64..).zip([kind::REQUEST, kind::REPLY]) {
        assert_eq!(exchange(&mut fence, Family::V4, kind, 2 * number, |_| ()).leg.vouch_index, 0, "unsure");
        fence.set(name::VOUCH_INDEX, 1, vouch_word(40 + number));
        let answer = exchange(&mut fence, Family::V4, kind, 2 * number + 1, |_| ()).leg;
        assert_eq!((answer.header.kind, answer.vouch_index), (kind + 1, vouch_word(40 + number)));
        assert!(vouched(&mut fence, 1) >= before_ns);
        (0..8).for_each(|cpu| fence.set(name::VOUCHED, cpu * map::MAX_NODES + 1, 0u64));
        fence.set(name::VOUCH_INDEX, 1, 0u64);
    }
    fence.set(name::VOUCH_INDEX, 1, vouch_word(43));
    let last = exchange(&mut fence, Family::V4, kind::CONFIRMATION, 9, |_| ()).leg;
    assert_eq!((last.header.kind, last.vouch_index), (kind::FINAL_REPLY, 0));
    assert_eq!(vouched(&mut fence, 1), 0, "leg 4 vouches for nobody");
    assert_eq!(address(1, Family::V4), mapped([10, 77, 1, 1]));
}

#[test]
fn what_the_fence_costs() {
    const REPEAT: u32 = 200_000;
    let mut fence = Fence::load();
    fence.voters(&[1, 2, 3, 4, 5, 6, 7, 8, 9], LEASE_NS);
    (1..10).for_each(|node| fence.set(name::EVIDENCE, node, boottime_ns()));
    fence.set(name::EVIDENCE, 2, 0u64);
    let ns = |fence: &Fence, way: Way, frame: &[u8]| {
        let once = || {
            let options = TestRunOptions { data_in: Some(frame), repeat: REPEAT, ..TestRunOptions::new() };
            let result = match way {
                Way::Xdp => fence.xdp().test_run(options),
                _ => fence.tc(way).test_run(options),
            };
            result.expect("the kernel runs it").duration.as_nanos()
        };
        (0..5).map(|_| once()).min().unwrap_or(0)
    };
    let (ours, theirs) = (&spoken()[0].1, ethernet(mac(9), V4, &ipv4(CLIENT, [10, 77, 2, 7])));
    let (ours6, asked) = (&spoken()[5].1, &asked()[0].1);
    let measure = |fence: &Fence| {
        [(Way::Out, &theirs), (Way::Out, ours), (Way::Out, ours6), (Way::Xdp, &theirs), (Way::Xdp, asked)]
            .map(|(way, frame)| ns(fence, way, frame))
    };
    let with = measure(&fence);
    fence.state(|words| words[13] = 0);
    let without = measure(&fence);
    for (name, way) in [("netft_out", Way::Out), ("netft_in", Way::In)] {
        let info = fence.tc(way).info().expect("the kernel tells");
        let (size, verified) = (info.size_translated(), info.verified_instruction_count().unwrap_or(0));
        println!("{name}: {} instructions, verifier looked at {verified}", size.unwrap_or(0) / 8);
        assert!(verified < 200_000, "the verifier gives up at 1 000 000");
    }
    println!(
        "ns: out foreign, out VIP, out VIP IPv6, XDP foreign, XDP VIP: {with:?}; without VIPs {without:?}"
    );
    assert!(with.iter().all(|ns| *ns < 1_000), "{with:?}");
}

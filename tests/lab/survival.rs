//! Random failures, of which one path is always spared.

use crate::support::{PATIENCE, cluster, logs, options};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xtask::cluster::adapter;
use xtask::lab::{Direction, Lab, boottime_ns, timing_lock};
use xtask::traffic::{Flow, FlowSpec};

/// How long failures rain.
const SPAN: Duration = Duration::from_secs(10);

#[test]
fn traffic_survives_random_failures_that_spare_one_path() {
    let _alone = timing_lock().unwrap();
    // Damped routes would make every round wait for seconds until all is whole, and leave few rounds.
    let lab = cluster(&options(2, 2).set("routes.flap_limit=0").unwrap());
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let spec = FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60));
    let (udp, tcp) = (Flow::udp(&lab, &spec).unwrap(), Flow::tcp(&lab, &spec).unwrap());
    let mut random = Random::new();
    let mut done = Vec::new();
    let start = Instant::now();
    while start.elapsed() < SPAN {
        // Which of the two networks may suffer changes only when both are whole.
        let suffers = if random.below(2) == 0 { "net1" } else { "net2" };
        crate::support::whole(&lab);
        for _ in 0..=random.below(6) {
            let action = act(&lab, suffers, &mut random);
            done.push(action);
            pause(&mut random);
            let now_ns = boottime_ns();
            for (flow, what) in [(&udp, "UDP flow"), (&tcp, "TCP stream")] {
                assert!(
                    flow.wait_for_arrival(now_ns, PATIENCE),
                    "the {what} stopped; seed {}, done: {done:?}\n{}",
                    random.seed,
                    logs(&lab)
                );
            }
        }
        mend(&lab, suffers);
    }
    let report = tcp.report(0, boottime_ns());
    assert!(report.faults.is_empty(), "seed {}: {report:?}", random.seed);
    println!("{} actions, seed {}: {report:?}", done.len(), random.seed);
}

fn act(lab: &Lab, network: &str, random: &mut Random) -> String {
    let node = if random.below(2) == 0 { "n1" } else { "n2" };
    let direction = [Direction::Both, Direction::Tx, Direction::Rx][random.below(3)];
    let (name, result) = match random.below(4) {
        0 => ("cut", lab.cut(node, network, direction)),
        1 => ("heal", lab.heal(node, network, direction)),
        2 => ("unplug", lab.unplug(node, network)),
        _ => ("plug", lab.plug(node, network)),
    };
    result.unwrap_or_else(|error| panic!("{name} {node} {network}: {error:#}"));
    format!("{name} {node} {network} {direction:?}")
}

fn mend(lab: &Lab, network: &str) {
    for node in ["n1", "n2"] {
        lab.heal(node, network, Direction::Both).unwrap();
        lab.plug(node, network).unwrap();
    }
}

/// Up to 40 ms, so that failures come before, during and after detection of the one before.
fn pause(random: &mut Random) {
    std::thread::sleep(Duration::from_millis(random.below(40) as u64));
}

/// SplitMix64: a different sequence each time, repeatable by its seed.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new() -> Self {
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()));
        let given = std::env::var("NETFT_LAB_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(clock);
        Self { seed, state: seed }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap_or_default()
    }
}

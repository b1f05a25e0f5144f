//! The generators in a lab without daemons: what the network does to a flow must show in its report.

use super::*;
use crate::lab::{Direction, LabGuard, Options, timing_lock};

const PATIENCE: Duration = Duration::from_secs(5);

fn spec() -> FlowSpec {
    let destination = "10.77.1.2".parse().unwrap();
    FlowSpec { device: None, ..FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(20)) }
}

#[test]
fn a_cut_is_an_outage_of_both_flows_and_loss_of_the_udp_one() {
    let _lock = timing_lock().unwrap();
    let options = Options::new(&LabGuard::unique_name("traffic"), 2, 1).daemon_less();
    let lab = LabGuard::up(&options).unwrap();
    let (udp, tcp) = (Flow::udp(&lab, &spec()).unwrap(), Flow::tcp(&lab, &spec()).unwrap());
    assert!(udp.wait_for_arrival(0, PATIENCE) && tcp.wait_for_arrival(0, PATIENCE));
    let began = boottime_ns();
    let cut = lab.cut("n2", "net1", Direction::Both).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    let healed = lab.heal("n2", "net1", Direction::Both).unwrap();
    assert!(
        udp.wait_for_arrival(healed.after_ns, PATIENCE) && tcp.wait_for_arrival(healed.after_ns, PATIENCE)
    );
    std::thread::sleep(Duration::from_millis(20));
    let ended = boottime_ns();
    std::thread::sleep(Duration::from_millis(500));
    let cut_ns = healed.before_ns - cut.after_ns;
    let (udp, tcp) = (udp.stop(), tcp.stop());
    for (what, log) in [("UDP", &udp), ("TCP", &tcp)] {
        let report = log.report(began, ended);
        assert!(report.longest_outage_ns >= cut_ns, "{what}: cut for {cut_ns} ns, {report:?}");
        assert_eq!(report.faults, Vec::<String>::new(), "{what}");
        assert_eq!(report.duplicated, 0, "{what}");
    }
    assert!(udp.report(began, ended).lost > 0);
    assert_eq!(tcp.report(began, ended).lost, 0);
}

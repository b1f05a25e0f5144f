//! The lab's programs: silence by port and by node, in either direction.

use super::program::object;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use netft_common::lab::{Port, name, silent};

/// PROG_TEST_RUN without a context runs XDP and TC on the loopback interface.
const LOOPBACK: u32 = 1;
const FRAME: [u8; 64] = [0; 64];

struct Lab {
    ebpf: Ebpf,
    ports: HashMap<MapData, u32, [u32; 2]>,
    nodes: Array<MapData, u32>,
}

fn load() -> Lab {
    let mut ebpf = EbpfLoader::new().load(&object("lab")).expect("loading needs root and a kernel with BTF");
    for program in [name::PORT, name::PASS] {
        let program: &mut Xdp =
            ebpf.program_mut(program).expect("it is there").try_into().expect("it is XDP");
        program.load().expect("the verifier accepts it");
    }
    let egress: &mut SchedClassifier =
        ebpf.program_mut(name::EGRESS).expect("it is there").try_into().expect("it is TC");
    egress.load().expect("the verifier accepts it");
    let ports = ebpf.take_map(name::PORTS).expect("it is there").try_into().expect("a hash");
    let nodes = ebpf.take_map(name::NODES).expect("it is there").try_into().expect("an array");
    Lab { ebpf, ports, nodes }
}

impl Lab {
    fn set(&mut self, port: u32, node: u32) {
        let entry = Port { silent: port, node: 7 };
        self.ports.insert(LOOPBACK, bytemuck::cast::<_, [u32; 2]>(entry), 0).expect("port");
        self.nodes.set(7, node, 0).expect("node");
    }

    fn xdp(&self, program: &str) -> u32 {
        let program: &Xdp = self.ebpf.program(program).expect("it is there").try_into().expect("it is XDP");
        let options = TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::new() };
        program.test_run(options).expect("the kernel runs it").return_value
    }

    fn egress(&self) -> u32 {
        let program: &SchedClassifier =
            self.ebpf.program(name::EGRESS).expect("it is there").try_into().expect("it is TC");
        let options = TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::new() };
        program.test_run(options).expect("the kernel runs it").return_value
    }
}

#[test]
fn a_port_is_silenced_by_itself_or_by_its_node() {
    const XDP_DROP: u32 = 1;
    const XDP_PASS: u32 = 2;
    const TCX_DROP: u32 = 2;
    const TCX_NEXT: u32 = u32::MAX;
    let mut lab = load();
    assert_eq!((lab.xdp(name::PORT), lab.egress()), (XDP_PASS, TCX_NEXT), "an unknown port");
    for (port, node, expected) in [
        (0, 0, (XDP_PASS, TCX_NEXT)),
        (silent::TX, 0, (XDP_DROP, TCX_NEXT)),
        (silent::RX, 0, (XDP_PASS, TCX_DROP)),
        (0, silent::TX, (XDP_DROP, TCX_NEXT)),
        (0, silent::TX | silent::RX, (XDP_DROP, TCX_DROP)),
        (silent::TX, silent::RX, (XDP_DROP, TCX_DROP)),
    ] {
        lab.set(port, node);
        assert_eq!((lab.xdp(name::PORT), lab.egress()), expected, "port {port}, node {node}");
    }
    assert_eq!(lab.xdp(name::PASS), XDP_PASS);
}

//! The `netft` program, loaded into the kernel, with maps of its own.

use super::node::Setup;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use netft_common::map::{Counter, CpuTick, DataPath, name};
use socket2::Socket;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_TX.
    Reply,
    /// XDP_REDIRECT.
    Redirect,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// With the frame.
    pub action: Action,
    /// Names of the counters that grew by one; one is right.
    pub counted: Vec<&'static str>,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Whether the program tells what it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// As netftd loads it without `log.packets`.
    Off,
    /// With it.
    On,
}

/// A loaded program and its maps.
pub struct Program {
    ebpf: Ebpf,
    node: Array<MapData, [u8; 32]>,
    engine: Array<MapData, [u64; 8]>,
    slots: Array<MapData, [u8; 128]>,
    states: Array<MapData, [u64; 16]>,
    local: HashMap<MapData, [u8; 16], u32>,
    counters: PerCpuArray<MapData, u64>,
}

/// An object: the committed one, or the one in `$NETFT_EBPF_OBJECTS`, where `build-ebpf --check` puts fresh ones.
pub fn object(name: &str) -> Vec<u8> {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../netft-ebpf/prebuilt");
    let folder =
        std::env::var_os("NETFT_EBPF_OBJECTS").map_or_else(|| PathBuf::from(committed), PathBuf::from);
    let path = folder.join(format!("{name}.bpf.o"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// CLOCK_BOOTTIME in nanoseconds.
pub fn boottime_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("/proc is mounted");
    let (seconds, hundredths) =
        text.split_whitespace().next().and_then(|up| up.split_once('.')).expect("uptime");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    number(seconds) * 1_000_000_000 + number(hundredths) * 10_000_000
}

impl Program {
    /// Loads the program and fills its maps.
    pub fn load(setup: &Setup) -> Self {
        Self::load_with(setup, Log::Off)
    }

    /// The same, with or without the log.
    pub fn load_with(setup: &Setup, log: Log) -> Self {
        let level = if log == Log::On { aya_log::Level::Debug as u8 } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, true)
            .load(&object("netft"))
            .expect("loading needs root and a kernel with BTF");
        let program: &mut Xdp =
            ebpf.program_mut("netft").expect("it is there").try_into().expect("it is XDP");
        program.load().expect("the verifier accepts it");
        let mut take =
            |name: &str| ebpf.take_map(name).unwrap_or_else(|| panic!("the object has a map {name}"));
        let _active: Array<MapData, u64> = take(name::ACTIVE).try_into().expect("an array");
        let mut program = Self {
            node: take(name::NODE).try_into().expect("an array"),
            engine: take(name::ENGINE).try_into().expect("an array"),
            slots: take(name::SLOTS).try_into().expect("an array"),
            states: take(name::STATES).try_into().expect("an array"),
            local: take(name::LOCAL).try_into().expect("a hash"),
            counters: take(name::COUNTERS).try_into().expect("a per-CPU array"),
            ebpf,
        };
        program.set(setup);
        program
    }

    /// Fills the maps; slots that `setup` doesn't name stay as they are.
    pub fn set(&mut self, setup: &Setup) {
        self.node.set(0, bytemuck::cast::<_, [u8; 32]>(setup.node), 0).expect("node");
        self.engine.set(0, [setup.tick_ns, setup.flags, 0, 0, 0, 0, 0, 0], 0).expect("engine");
        for (slot, config) in &setup.slots {
            self.slots.set(*slot, bytemuck::cast::<_, [u8; 128]>(*config), 0).expect("slot");
        }
        for address in &setup.local {
            self.local.insert(address, 1, 0).expect("address");
        }
    }

    /// Says how data is received on an interface.
    pub fn set_path(&mut self, interface: u32, path: DataPath) {
        let map = self.ebpf.map_mut(name::PATHS).expect("the object has it");
        let mut paths: Array<_, u64> = map.try_into().expect("an array");
        paths.set(interface, path.to_word(), 0).expect("in range");
    }

    /// Says how many messages may go through a gate, all in all.
    pub fn set_limit(&mut self, gate: u32, limit: u64) {
        let map = self.ebpf.map_mut(name::GATES).expect("the object has it");
        let mut gates: Array<_, [u64; 2]> = map.try_into().expect("an array");
        let [passed, _] = gates.get(&gate, 0).expect("in range");
        gates.set(gate, [passed, limit], 0).expect("in range");
    }

    /// How many messages went through a gate.
    pub fn passed(&self, gate: u32) -> u64 {
        let map = self.ebpf.map(name::GATES).expect("the object has it");
        let gates: Array<_, [u64; 2]> = map.try_into().expect("an array");
        let [passed, _] = gates.get(&gate, 0).expect("in range");
        passed
    }

    /// Puts a socket into the map of AF_XDP sockets.
    pub fn set_socket(&mut self, index: u32, socket: &Socket) {
        let map = self.ebpf.map_mut(name::SOCKETS).expect("the object has it");
        let mut sockets: XskMap<_> = map.try_into().expect("a map of sockets");
        sockets.set(index, socket.as_raw_fd(), 0).expect("in range");
    }

    /// What it tells goes to `logger`, which must be read. Once.
    pub fn log_to<T: log::Log>(&mut self, logger: T) -> EbpfLogger<T> {
        EbpfLogger::init_with_logger(&mut self.ebpf, logger).expect("the object has a ring buffer")
    }

    /// Every CPU's ticks.
    pub fn cpus(&self) -> Vec<CpuTick> {
        let map = self.ebpf.map(name::CPUS).expect("the object has it");
        let cpus: Array<_, [u8; 32]> = map.try_into().expect("an array");
        cpus.iter().map(|tick| bytemuck::cast(tick.expect("in range"))).collect()
    }

    /// Words of a slot's `SlotState`, in order.
    pub fn state(&self, slot: u32) -> [u64; 16] {
        self.states.get(&slot, 0).expect("slot")
    }

    /// Forgets what was seen on a slot.
    pub fn reset_state(&mut self, slot: u32) {
        self.states.set(slot, [0; 16], 0).expect("slot");
    }

    /// The program.
    pub fn xdp(&self) -> &Xdp {
        self.ebpf.program("netft").expect("it is there").try_into().expect("it is XDP")
    }

    /// Every counter, summed over the CPUs.
    fn counts(&self) -> Vec<u64> {
        let of = |index| self.counters.get(&index, 0).expect("counter").iter().sum();
        (0..Counter::COUNT).map(of).collect()
    }

    /// Gives a frame to the program.
    pub fn run(&self, frame: &[u8]) -> Outcome {
        let before = self.counts();
        let mut after = vec![0; frame.len() + 64];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut after), ..TestRunOptions::new() };
        let result = self.xdp().test_run(options).expect("the kernel runs it");
        after.truncate(usize::try_from(result.data_size_out).expect("small"));
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Reply,
            4 => Action::Redirect,
            other => panic!("action {other}"),
        };
        let grown = before.iter().zip(self.counts()).zip(Counter::NAMES);
        let counted = grown.flat_map(|((before, after), name)| {
            std::iter::repeat_n(name, usize::try_from(after - before).expect("small"))
        });
        Outcome { action, counted: counted.collect(), frame: after }
    }
}

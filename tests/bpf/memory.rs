//! The same node in plain memory: `netft_common::receive` as a host program.

use super::node::Setup;
use super::program::{Action, Outcome};
use netft_common::fence::FenceTables;
use netft_common::heartbeat::Tables;
use netft_common::map::{Counter, EngineState, MAX_SLOTS, NodeConfig, SlotConfig, SlotState};
use netft_common::receive::{Verdict, receive};
use netft_common::shared::Shared;
use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

/// What the maps hold.
pub struct Memory {
    node: NodeConfig,
    engine: EngineState,
    configs: Vec<SlotConfig>,
    states: Vec<SlotState>,
    local: Vec<[u8; 16]>,
    /// The clock.
    pub now_ns: Cell<u64>,
}

impl Memory {
    /// Filled as `Program::load` fills the maps.
    pub fn new(setup: &Setup) -> Self {
        let mut configs = vec![SlotConfig::default(); usize::try_from(MAX_SLOTS).expect("small")];
        for (slot, config) in &setup.slots {
            configs[index(*slot)] = *config;
        }
        let engine = EngineState::default();
        engine.tick_ns.store(setup.tick_ns, Relaxed);
        engine.flags.store(setup.flags, Relaxed);
        Self {
            node: setup.node,
            engine,
            configs,
            states: (0..MAX_SLOTS).map(|_| SlotState::default()).collect(),
            local: setup.local.clone(),
            now_ns: Cell::new(0),
        }
    }

    /// Words of a slot's `SlotState`, in order.
    pub fn state(&self, slot: u32) -> [u64; 16] {
        self.states[index(slot)].words().map(|word| word.load(Relaxed))
    }

    /// Gives a frame to the code.
    pub fn run(&self, frame: &[u8]) -> Outcome {
        let mut frame = frame.to_vec();
        let (action, counter) = match receive(&mut frame[..], self) {
            Ok(Verdict::Pass(counter)) => (Action::Pass, counter as u32),
            Ok(Verdict::Consume(counter)) => (Action::Drop, counter as u32),
            Ok(Verdict::Reply(counter)) => (Action::Reply, counter as u32),
            Ok(Verdict::Redirect(_)) => (Action::Redirect, Counter::Redirected as u32),
            Err(reject) => (Action::Drop, reject as u32),
        };
        Outcome { action, counted: vec![Counter::NAMES[index(counter)]], frame }
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("usize holds u32")
}

impl Shared for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
}

impl Tables for Memory {
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        self.configs.get(index(slot))
    }
    fn read(&self, word: &u32) -> u32 {
        *word
    }
    fn state(&self, slot: u32) -> Option<&SlotState> {
        self.states.get(index(slot))
    }
    fn is_local(&self, address: &[u8; 16]) -> bool {
        self.local.contains(address)
    }
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

impl FenceTables for Memory {}

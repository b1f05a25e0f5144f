//! What data threads and the control thread tell each other, by atomics: mostly about the interfaces' AF_XDP sockets.

use netft_common::map::MAX_SLOTS;
use netft_core::carry::Policy;
use netft_core::types::{InterfaceNumber, Slot};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One line per interface.
#[derive(Debug)]
pub struct Board {
    lines: [Line; InterfaceNumber::LIMIT as usize],
    /// Something changed that the control thread should tell.
    pub changed: AtomicBool,
    /// All threads should end.
    pub stop: AtomicBool,
    /// The adapter was removed behind our back.
    pub adapter_lost: AtomicBool,
    /// [`Policy::to_word`]; the control thread writes it.
    policy: AtomicU64,
    /// By slot.
    sizes: Box<[Size]>,
    /// One of them carries something else now.
    pub sizes_changed: AtomicBool,
}

/// How large packets one route carries.
#[derive(Debug, Default)]
pub struct Size {
    /// Bytes of an IP packet, 0 = nobody has looked yet. The leader writes it.
    pub carried: AtomicU64,
    /// Number of the newest answer to a padded probe, 0 = taken note of.
    pub answer: AtomicU64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            lines: std::array::from_fn(|_| Line::default()),
            changed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            adapter_lost: AtomicBool::new(false),
            policy: AtomicU64::new(Policy::default().to_word()),
            sizes: (0..MAX_SLOTS).map(|_| Size::default()).collect(),
            sizes_changed: AtomicBool::new(false),
        }
    }
}

/// One interface.
#[derive(Debug, Default)]
pub struct Line {
    /// Grows when something authentic came out of an AF_XDP socket.
    pub arrivals: AtomicU64,
    /// Number of the newest answer to a probe, 0 = taken note of.
    pub answer: AtomicU64,
    /// Frames that we receive come out of AF_XDP sockets.
    receive: AtomicBool,
    /// Frames that we send may go into them.
    transmit: AtomicBool,
    /// What doesn't go by them was tried in vain.
    refuted: AtomicBool,
}

/// Which ways go by AF_XDP now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Receiving.
    pub receive: bool,
    /// Sending.
    pub transmit: bool,
    /// What doesn't go by it was tried in vain, rather than not yet.
    pub refuted: bool,
}

impl Board {
    /// Which routes a frame takes.
    pub fn policy(&self) -> Policy {
        Policy::from_word(self.policy.load(Ordering::Relaxed))
    }

    /// From the next frame on.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(policy.to_word(), Ordering::Relaxed);
    }

    /// What a route carries.
    pub fn size(&self, slot: Slot) -> &Size {
        &self.sizes[slot.index()]
    }

    /// An interface's line.
    pub fn line(&self, interface: InterfaceNumber) -> &Line {
        &self.lines[usize::from(interface.get())]
    }
}

impl Line {
    /// What goes by AF_XDP now.
    pub fn ways(&self) -> Ways {
        Ways {
            receive: self.receive.load(Ordering::Relaxed),
            transmit: self.transmit.load(Ordering::Relaxed),
            refuted: self.refuted.load(Ordering::Relaxed),
        }
    }

    /// The leader alone.
    pub fn set_ways(&self, ways: Ways) {
        self.receive.store(ways.receive, Ordering::Relaxed);
        self.transmit.store(ways.transmit, Ordering::Relaxed);
        self.refuted.store(ways.refuted, Ordering::Relaxed);
    }
}

//! VIPs: who owns which is decided by consensus, and done by the fence's words, addresses and claims. `docs/ownership.md` has the
//! rules; everything here is the shell around [`netft_core::ownership`].
//!
//! - [`Ownership`]: what the control thread holds.
//! - `runner`: the ownership thread: consensus, the leader's policy, moves.
//! - `hands`: carries commands out in order. `addresses`: the thread beside it, for netlink and claims.
//! - `wishes`, `places`: what the configuration wants of the log, and where VIPs can be. Pure.
//! - `kept`: files.

mod addresses;
mod by_hand;
mod claims;
mod hands;
pub mod kept;
mod places;
mod runner;
mod view;
mod wishes;

pub use addresses::remove_all;
pub use places::{Founder, Spot};
pub use view::{View, VipState, VipView};
pub use wishes::Wishes;

use crate::engine::fence::FenceWords;
use netft_core::keys::Keyring;
use netft_core::ownership::{VipAddress, Why};
use netft_core::types::{Nanos, NodeId, NodeState};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Inputs and events that may wait.
const WAITING: usize = 4096;

/// What ownership is started with.
pub struct Setup {
    /// This node.
    pub own: NodeId,
    /// Number of the cluster.
    pub cluster_id: u32,
    /// Keys, from the cluster secret.
    pub keyring: Keyring,
    /// Folder for the log and the rest.
    pub folder: PathBuf,
    /// Name of `netft0`: nodes talk over it.
    pub adapter: String,
    /// The detection time, in nanoseconds.
    pub detection_ns: Nanos,
    /// The fence's words, for the thread itself, for addresses, and for closing the fence when everything else has failed.
    pub words: [FenceWords; 3],
    /// What the configuration wants.
    pub wishes: Wishes,
    /// Of everything else there is.
    pub surroundings: Surroundings,
    /// As the detector sees peers.
    pub states: BTreeMap<NodeId, NodeState>,
}

/// What the control thread knows of nodes and interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// All nodes that are configured, this one among them, by name.
    pub nodes: BTreeMap<String, NodeFacts>,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its id, once known.
    pub id: Option<NodeId>,
    /// Whether it has introduced itself since this daemon started; this node always has.
    pub met: bool,
    /// Its `netft0`.
    pub adapter: Option<Ipv4Addr>,
    /// Site, addresses, role.
    pub founder: Founder,
}

/// What ownership has to tell.
#[derive(Clone, Debug)]
pub enum Told {
    /// A VIP has another owner.
    Owner {
        /// The VIP's name.
        vip: String,
        /// Who owned it.
        old: Option<NodeId>,
        /// Who owns it.
        new: Option<NodeId>,
        /// Why.
        why: Why,
    },
    /// An address was added to an interface of this node, or removed.
    Address {
        /// Which.
        address: VipAddress,
        /// Where.
        interface: String,
        /// Or removed.
        added: bool,
    },
    /// Good news.
    Info(String),
    /// Somebody should look.
    Warning(String),
}

/// To the control thread.
#[derive(Clone)]
pub struct Tell(mpsc::Sender<Told>);

impl Tell {
    fn send(&self, told: Told) {
        // A control thread that is thousands of events behind misses some.
        let _ = self.0.try_send(told);
    }
}

/// The answer to a wish of an administrator: what was done, or one sentence why not.
pub type Done = Result<String, String>;

/// What the ownership thread is told.
enum Input {
    Peer(NodeId, NodeState),
    Surroundings(Surroundings),
    Wishes(Wishes),
    Move {
        vip: String,
        node: String,
        done: oneshot::Sender<Done>,
    },
    Remove {
        vip: String,
        done: oneshot::Sender<Done>,
    },
    /// Give everything to others; answered when nothing is left here, or nobody takes it.
    Leave(oneshot::Sender<()>),
    Stop,
}

/// Running ownership. Dropped, it stops without a word, and what it has taken stays behind its fence.
pub struct Ownership {
    inputs: mpsc::Sender<Input>,
    events: mpsc::Receiver<Told>,
    view: Arc<Mutex<View>>,
    thread: Option<JoinHandle<()>>,
    surroundings: Surroundings,
}

impl Ownership {
    /// Starts both threads, in the network namespace of the caller.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let (inputs, queue) = mpsc::channel(WAITING);
        let (tell, events) = mpsc::channel(WAITING);
        let view = Arc::new(Mutex::new(View::default()));
        let surroundings = setup.surroundings.clone();
        let runner = runner::Runner::new(setup, queue, Tell(tell), Arc::clone(&view))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            let _abort = crate::engine::AbortOnPanic;
            // Consensus mustn't wait behind the rest of the machine.
            let _ = crate::sys::schedule_ordinary(-10);
            runtime.block_on(runner.run());
        };
        let thread = std::thread::Builder::new().name("netft-ownership".into()).spawn(run)?;
        Ok(Self { inputs, events, view, thread: Some(thread), surroundings })
    }

    fn send(&self, input: Input) {
        if self.inputs.try_send(input).is_err() {
            // Thousands of inputs behind: a thread that hangs is worse than none, and its fence closes by itself.
            tracing::error!("the ownership thread doesn't take its inputs");
        }
    }

    /// The detector's verdict.
    pub fn peer(&self, node: NodeId, state: NodeState) {
        self.send(Input::Peer(node, state));
    }

    /// What there is now, if it is something else than before.
    pub fn surroundings(&mut self, surroundings: Surroundings) {
        if surroundings != self.surroundings {
            self.surroundings = surroundings.clone();
            self.send(Input::Surroundings(surroundings));
        }
    }

    /// What the configuration wants now.
    pub fn wish(&self, wishes: Wishes) {
        self.send(Input::Wishes(wishes));
    }

    /// An administrator moves a VIP.
    pub fn move_vip(&self, vip: String, node: String, done: oneshot::Sender<Done>) {
        self.send(Input::Move { vip, node, done });
    }

    /// An administrator removes a VIP that no configuration has any more.
    pub fn remove_vip(&self, vip: String, done: oneshot::Sender<Done>) {
        self.send(Input::Remove { vip, done });
    }

    /// The next event. Dropping the future loses nothing.
    pub async fn event(&mut self) -> Told {
        match self.events.recv().await {
            Some(told) => told,
            // The thread has ended: nothing comes any more.
            None => std::future::pending().await,
        }
    }

    /// What is there already.
    pub fn try_event(&mut self) -> Option<Told> {
        self.events.try_recv().ok()
    }

    /// How things stand.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives everything to others. Answers when that is done, or nobody takes it.
    pub fn leave(&self) -> oneshot::Receiver<()> {
        let (done, waiting) = oneshot::channel();
        self.send(Input::Leave(done));
        waiting
    }

    /// Closes every fence of this node, removes all addresses, and ends both threads.
    pub fn stop(mut self) {
        self.send(Input::Stop);
        if let Some(thread) = self.thread.take() {
            // It aborts the process when it panics.
            let _ = thread.join();
        }
    }
}

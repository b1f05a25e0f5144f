//! What administrators want: moves and removals that are under way. They are asked for again until they are done, as who leads may
//! change meanwhile, and what is asked may be lost.

use super::Done;
use netft_consensus::Consensus;
use netft_core::ownership::{Entry, State, VipId, Why};
use netft_core::types::NodeId;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long either may take.
const LIMIT: Duration = Duration::from_secs(4);
const ASK_AGAIN: Duration = Duration::from_millis(50);

struct Move {
    vip: VipId,
    name: String,
    to: NodeId,
    done: Option<oneshot::Sender<Done>>,
    began: Instant,
    ask_at: Instant,
}

struct Removal {
    name: String,
    done: Option<oneshot::Sender<Done>>,
    until: Instant,
}

/// All of them.
#[derive(Default)]
pub(super) struct ByHand {
    moves: Vec<Move>,
    removals: Vec<Removal>,
}

impl ByHand {
    pub(super) fn begin_move(&mut self, vip: VipId, name: String, to: NodeId, done: oneshot::Sender<Done>) {
        let now = Instant::now();
        self.moves.push(Move { vip, name, to, done: Some(done), began: now, ask_at: now });
    }

    /// A VIP that this node's configuration has would come back at once.
    pub(super) fn begin_removal(&mut self, name: String, is_configured: bool, done: oneshot::Sender<Done>) {
        if is_configured {
            let why =
                format!("vip.{name} is in this node's configuration: take it out there first, on all nodes");
            let _ = done.send(Err(why));
            return;
        }
        self.removals.push(Removal { name, done: Some(done), until: Instant::now() + LIMIT });
    }

    /// Whether one of them is about this VIP.
    pub(super) fn concerns(&self, vip: VipId, name: &str) -> bool {
        self.moves.iter().any(|moving| moving.vip == vip)
            || self.removals.iter().any(|removal| removal.name == name)
    }

    /// Goes on with everything. `leader` is whether this node leads, and the name of who does.
    pub(super) fn go_on(&mut self, consensus: &Consensus, state: &State, leader: Option<(bool, String)>) {
        let now = Instant::now();
        for moving in &mut self.moves {
            moving.go_on(consensus, state, now);
        }
        self.moves.retain(|moving| moving.done.is_some());
        for removal in &mut self.removals {
            removal.go_on(consensus, state, leader.as_ref(), now);
        }
        self.removals.retain(|removal| removal.done.is_some());
    }
}

impl Move {
    fn go_on(&mut self, consensus: &Consensus, state: &State, now: Instant) {
        let vip = state.vips.get(&self.vip);
        if vip.is_some_and(|vip| vip.owner == Some(self.to) && vip.to_be_silent().is_empty()) {
            let took_ms = now.duration_since(self.began).as_secs_f64() * 1e3;
            answer(&mut self.done, Ok(format!("{} is there after {took_ms:.1} ms", self.name)));
        } else if now >= self.began + LIMIT {
            let limit = LIMIT.as_secs();
            let why =
                format!("{} isn't there after {limit} s: `netft vips` says how things stand", self.name);
            answer(&mut self.done, Err(why));
        } else if now >= self.ask_at && vip.is_some_and(|vip| vip.owner != Some(self.to)) {
            self.ask_at = now + ASK_AGAIN;
            consensus.ask_to_move(self.vip, self.to);
        }
    }
}

impl Removal {
    /// A VIP is taken from its owner, whose silence is waited for, and then removed.
    fn go_on(&mut self, consensus: &Consensus, state: &State, leader: Option<&(bool, String)>, now: Instant) {
        let found = state.vips.iter().find(|(_, vip)| vip.settings.name == self.name);
        match (found, leader) {
            (None, _) => answer(&mut self.done, Ok(format!("{} is removed", self.name))),
            (_, None) => {
                let why = "no node leads: a majority of the voters must see each other".to_owned();
                answer(&mut self.done, Err(why));
            }
            (_, Some((false, leader))) => {
                answer(&mut self.done, Err(format!("{leader} leads: remove it there")));
            }
            _ if now >= self.until => {
                let why = format!("{} isn't removed after {} s", self.name, LIMIT.as_secs());
                answer(&mut self.done, Err(why));
            }
            (Some((id, vip)), _) if vip.owner.is_some() => {
                consensus.assign_because(*id, None, Why::Removed);
            }
            (Some((id, vip)), _) if vip.earlier.is_empty() => consensus.propose(Entry::RemoveVip(*id)),
            _ => (),
        }
    }
}

fn answer(done: &mut Option<oneshot::Sender<Done>>, answer: Done) {
    if let Some(done) = done.take() {
        // Who asked may have gone.
        let _ = done.send(answer);
    }
}

//! The time in which consensus runs: what follows from each change of it, and of what there is around.

use super::{Leaving, Runner, Then};
use crate::ownership::by_hand::ByHand;
use crate::ownership::hands::lock;
use crate::ownership::places::can_serve;
use crate::ownership::{Done, Input, Told, View, VipState, VipView};
use crate::sys;
use netft_common::wire;
use netft_consensus::Consensus;
use netft_core::ownership::policy::Policy;
use netft_core::ownership::{Entry, NodeSet, Ownership, Seen, Standing, State, Vip, VipId, Why};
use netft_core::types::{Nanos, NodeId, NodeState};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// The leader looks this often whether something is due, like a node that doesn't apply what it should.
const LOOK: Duration = Duration::from_millis(20);
/// A proposal that wasn't applied within this may have been lost.
const PROPOSE_AGAIN: Duration = Duration::from_millis(200);
/// The leader doesn't act on the state of nodes before it has heard of all of them, or for this long.
const GRACE_NS: Nanos = 1_000_000_000;
/// How long a node that leaves waits for others to take its VIPs.
const LEAVE: Duration = Duration::from_secs(1);

/// What was seen of a VIP.
struct Known {
    owner: Option<NodeId>,
    since_ns: Option<Nanos>,
}

/// Consensus, and what this node has seen of it.
pub(super) struct AtWork {
    pub(super) consensus: Consensus,
    policy: Policy,
    seen: BTreeMap<VipId, Known>,
    /// Whether the beginning has been seen: what is replayed is no news.
    is_current: bool,
    /// Until everything of that was seen.
    is_first: bool,
    proposed: Vec<Entry>,
    propose_at: Instant,
    by_hand: ByHand,
    differences: Vec<String>,
    told_trouble: Option<String>,
    addresses: BTreeMap<NodeId, Ipv4Addr>,
}

impl AtWork {
    pub(super) fn new(consensus: Consensus) -> Self {
        Self {
            consensus,
            policy: Policy::default(),
            seen: BTreeMap::new(),
            is_current: false,
            is_first: true,
            proposed: Vec::new(),
            propose_at: Instant::now(),
            by_hand: ByHand::default(),
            differences: Vec::new(),
            told_trouble: None,
            addresses: BTreeMap::new(),
        }
    }

    pub(super) async fn run(&mut self, runner: &mut Runner) {
        let mut changes = self.consensus.changes();
        for node in runner.surroundings.nodes.values().filter_map(|node| node.id) {
            if node != runner.own {
                self.consensus.peer(node, runner.seen(node));
            }
        }
        self.pass_addresses(runner);
        loop {
            self.follow(runner);
            let look_at = Instant::now() + LOOK;
            tokio::select! {
                input = runner.inputs.recv() => {
                    let Some(input) = input else { return };
                    if matches!(self.take_in(runner, input), Then::Stop) {
                        return;
                    }
                }
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(look_at) => (),
            }
        }
    }

    fn take_in(&mut self, runner: &mut Runner, input: Input) -> Then {
        if let Input::Peer(node, _) = input {
            runner.take_in(input);
            self.consensus.peer(node, runner.seen(node));
            return Then::GoOn;
        }
        match runner.take_in(input) {
            None => self.pass_addresses(runner),
            Some(Input::Move { vip, node, done }) => self.begin_move(runner, vip, &node, done),
            Some(Input::Remove { vip, done }) => {
                let is_configured = runner.wishes.vips.contains_key(&vip);
                self.by_hand.begin_removal(vip, is_configured, done);
            }
            Some(Input::Leave(done)) => {
                runner.leaving = Some(Leaving { done: Some(done), until: Instant::now() + LEAVE });
            }
            Some(Input::Stop) => return Then::Stop,
            Some(_) => (),
        }
        Then::GoOn
    }

    /// Where peers are reached.
    fn pass_addresses(&mut self, runner: &Runner) {
        for node in runner.surroundings.nodes.values() {
            let (Some(id), Some(address)) = (node.id.filter(|id| *id != runner.own), node.adapter) else {
                continue;
            };
            if self.addresses.insert(id, address) != Some(address) {
                self.consensus.set_address(id, Some(SocketAddr::new(IpAddr::V4(address), wire::PORT)));
            }
        }
    }

    /// Everything that follows from what has changed.
    fn follow(&mut self, runner: &mut Runner) {
        let state = self.consensus.state();
        let status = self.consensus.status();
        self.is_current |= self.consensus.look(Ownership::may_act);
        for (id, vip) in &state.vips {
            lock(&runner.book).change(*id, &vip.settings);
        }
        self.note_owners(runner, &state);
        if let Some(leader) = status.leader {
            self.compare(runner, &state);
            if leader == runner.own {
                self.lead(runner, &state);
            }
        }
        let leader = status.leader.map(|leader| (leader == runner.own, runner.name_of(leader)));
        self.by_hand.go_on(&self.consensus, &state, leader);
        self.go_on_leaving(runner, &state);
        if status.trouble != self.told_trouble {
            status.trouble.iter().for_each(|trouble| runner.tell.send(Told::Warning(trouble.clone())));
            self.told_trouble.clone_from(&status.trouble);
        }
        let no_leader = status.leader.is_none().then(|| match state.members.is_empty() {
            true => format!(
                "the cluster isn't founded yet: that takes all of {}, each with VIPs in its configuration or as a witness",
                runner.surroundings.nodes.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
            false => "no node leads, so nothing is decided: a majority of the voters must see each other".to_owned(),
        });
        let view = View {
            leader: status.leader,
            term: status.term,
            voters: status.voters.all().iter().collect(),
            applied: status.applied.index,
            trouble: status.trouble.or(no_leader),
            differences: self.differences.clone(),
            vips: self.vips(runner, &state),
        };
        *runner.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn note_owners(&mut self, runner: &Runner, state: &State) {
        self.seen.retain(|id, _| state.vips.contains_key(id));
        for (id, vip) in &state.vips {
            let known = self.seen.get(id).map(|seen| seen.owner);
            if known == Some(vip.owner) {
                continue;
            }
            let old = known.flatten();
            // A VIP that is new to this node, and has an owner, has had him for who knows how long.
            let news = self.is_current && (known.is_some() || vip.owner.is_some() && !self.is_first);
            let since_ns = news.then(sys::boottime);
            self.seen.insert(*id, Known { owner: vip.owner, since_ns });
            if news {
                let name = vip.settings.name.clone();
                runner.tell.send(Told::Owner { vip: name, old, new: vip.owner, why: vip.why });
            }
        }
        self.is_first &= !self.is_current;
    }

    /// Says where the configuration isn't what the cluster has.
    fn compare(&mut self, runner: &Runner, state: &State) {
        let differences = runner.wishes.differences(state);
        for new in differences.iter().filter(|new| !self.differences.contains(new)) {
            runner.tell.send(Told::Warning(new.clone()));
        }
        self.differences = differences;
    }

    /// What only the leader does.
    fn lead(&mut self, runner: &Runner, state: &State) {
        let now = sys::boottime();
        let id_of = |name: &str| runner.id_of(name);
        let wanted =
            if state.members.is_empty() { Vec::new() } else { runner.wishes.proposals(state, &id_of) };
        if wanted != self.proposed || Instant::now() >= self.propose_at {
            self.propose_at = Instant::now() + PROPOSE_AGAIN;
            wanted.iter().for_each(|entry| self.consensus.propose(entry.clone()));
            self.proposed = wanted;
        }
        let is_known = |node: &NodeId| *node == runner.own || runner.states.contains_key(node);
        if !state.members.keys().all(is_known) && now < runner.started_ns + GRACE_NS {
            return;
        }
        let sleeps =
            |node: &NodeId| *node != runner.own && self.consensus.look(|ownership| ownership.sleeps(*node));
        let sleepers: NodeSet = state.members.keys().copied().filter(sleeps).collect();
        for node in state.members.keys().copied() {
            let seen = if sleepers.contains(node) { Seen::Down } else { runner.seen(node) };
            self.policy.handle_node(now, node, seen, runner.networks(state, node));
        }
        for (id, node) in self.policy.plan(now, state) {
            let Some(vip) = state.vips.get(&id) else { continue };
            // What an administrator moves or removes isn't moved by anybody else meanwhile.
            let by_hand = self.by_hand.concerns(id, &vip.settings.name);
            if !by_hand {
                self.consensus.assign_because(id, Some(node), reason(runner, state, vip, &sleepers));
            }
        }
    }

    fn begin_move(&mut self, runner: &Runner, name: String, node: &str, done: oneshot::Sender<Done>) {
        let to = runner.id_of(node).or_else(|| node.parse().ok().and_then(NodeId::new));
        match self.check_move(runner, &name, node, to) {
            Ok((vip, to)) => self.by_hand.begin_move(vip, name, to, done),
            Err(why) => drop(done.send(Err(why))),
        }
    }

    fn check_move(
        &self,
        runner: &Runner,
        name: &str,
        node: &str,
        to: Option<NodeId>,
    ) -> Result<(VipId, NodeId), String> {
        let state = self.consensus.state();
        let found = state.vips.iter().find(|(_, vip)| vip.settings.name == *name);
        let (id, vip) =
            found.ok_or_else(|| format!("there is no VIP {name} in this cluster: see `netft vips`"))?;
        let to =
            to.ok_or_else(|| format!("there is no node {node} that is known here: see `netft nodes`"))?;
        let facts = runner.surroundings.nodes.values().find(|facts| facts.id == Some(to));
        match state.members.get(&to).map(|member| member.standing) {
            None => Err(format!("{node} takes no part in deciding about VIPs, so it can't have one")),
            Some(Standing::Witness) => Err(format!("{node} is a witness: witnesses get no VIPs")),
            Some(Standing::Drained) => Err(format!("{node} is drained: resume it first")),
            _ if runner.seen(to) == Seen::Down => Err(format!("{node} isn't up: see `netft nodes`")),
            _ if facts.is_some_and(|facts| !can_serve(&facts.founder.spots, &vip.settings)) => {
                Err(format!("{node} can't serve {name}: it has no interface that is up in the VIP's subnet"))
            }
            _ => Ok((*id, to)),
        }
    }

    fn go_on_leaving(&self, runner: &mut Runner, state: &State) {
        let others = state.members.iter().any(|(node, member)| {
            *node != runner.own && member.standing == Standing::Active && runner.seen(*node) == Seen::Up
        });
        let Some(leaving) = &mut runner.leaving else { return };
        let is_done = !state.holders().contains(runner.own) || !others || Instant::now() >= leaving.until;
        if let Some(done) = leaving.done.take_if(|_| is_done) {
            let _ = done.send(());
        }
    }

    fn vips(&self, runner: &Runner, state: &State) -> Vec<VipView> {
        let mut vips: BTreeMap<String, VipView> = BTreeMap::new();
        for (name, wish) in &runner.wishes.vips {
            let view = VipView {
                name: name.clone(),
                addresses: wish.addresses.clone(),
                owner: None,
                epoch: 0,
                state: VipState::Unknown,
                since_ns: None,
                why: None,
            };
            vips.insert(name.clone(), view);
        }
        for (id, vip) in &state.vips {
            let seen = self.seen.get(id);
            let view = VipView {
                name: vip.settings.name.clone(),
                addresses: vip.settings.addresses.clone(),
                owner: vip.owner,
                epoch: vip.epoch,
                state: self.standing(runner, *id, vip.owner, vip.to_be_silent().is_empty()),
                since_ns: seen.and_then(|seen| seen.since_ns),
                why: (vip.epoch > 0).then_some(vip.why),
            };
            vips.insert(view.name.clone(), view);
        }
        vips.into_values().collect()
    }

    fn standing(&self, runner: &Runner, id: VipId, owner: Option<NodeId>, settled: bool) -> VipState {
        match owner {
            None => VipState::Unowned,
            Some(owner) if owner == runner.own => match runner.words.check(id) {
                _ if !lock(&runner.book).owns(id) => VipState::Waiting,
                Ok(()) => VipState::Served,
                Err(_) => VipState::Fenced,
            },
            Some(_) if settled => VipState::Served,
            Some(_) => VipState::Waiting,
        }
    }
}

/// Why the leader takes a VIP from its owner, or gives it to a first one.
fn reason(runner: &Runner, state: &State, vip: &Vip, sleepers: &NodeSet) -> Why {
    let Some(owner) = vip.owner else { return Why::Assigned };
    match runner.states.get(&owner) {
        _ if owner == runner.own && runner.leaving.is_some() => Why::OwnerLeft,
        Some(NodeState::Down) => Why::OwnerDown,
        Some(NodeState::EngineStalled) => Why::OwnerStalled,
        Some(NodeState::Leaving) => Why::OwnerLeft,
        None if owner != runner.own => Why::OwnerDown,
        _ if sleepers.contains(owner) => Why::OwnerAsleep,
        _ if runner.networks(state, owner) >> (vip.settings.network & 63) & 1 == 0 => Why::OwnerNetworkDown,
        _ => Why::Preferred,
    }
}

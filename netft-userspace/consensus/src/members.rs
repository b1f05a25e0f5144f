//! Who is in the cluster: founding it, and adding and removing nodes one at a time (rules 13 and 14).

use crate::node::{Consensus, ConsensusError, refused};
use crate::rpc::{Founding, Links, Reply, Request};
use crate::types::{Raft, Recorded};
use netft_core::ownership::{Entry, Member, NodeSet, Standing};
use netft_core::types::NodeId;
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at who is there.
const LOOK: Duration = Duration::from_millis(20);
/// How long one step of a change may take: within it a node must have caught up, owners have applied the change before.
const STEP: Duration = Duration::from_secs(10);

/// Where a node is, and what it may do. The cluster knows its leases by it, so it changes only by leaving and coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of its site.
    pub site: u16,
    /// Number of its subnet within the site.
    pub subnet: u16,
    /// Whether it may own VIPs.
    pub standing: Standing,
}

impl Place {
    fn member(self, incarnation: u64) -> Member {
        Member { incarnation, site: self.site, subnet: self.subnet, standing: self.standing }
    }
}

/// Founds the cluster, if this is the founder with the lowest id and nobody has: only when every founder was reached, has a new
/// store, and would found the same cluster. So a node that lost its store founds no second one.
pub(crate) async fn found(
    own: NodeId,
    incarnation: u64,
    founders: BTreeMap<NodeId, Place>,
    raft: Raft,
    links: Links,
) {
    if founders.first_key_value().is_none_or(|(first, _)| *first != own) {
        return;
    }
    while let Ok(false) = raft.is_initialized().await {
        if let Some(stores) = ready(own, incarnation, &founders, &links).await {
            let members = founders.iter().filter_map(|(node, place)| {
                let member = place.member(*stores.get(node)?);
                Some((node.get(), Recorded(Some(member))))
            });
            let members: BTreeMap<_, _> = members.collect();
            match raft.initialize(members).await {
                Ok(()) => {
                    tracing::info!("founded the cluster with {} voters", founders.len());
                    // The connections that are open say that nobody is known.
                    founders.keys().filter(|node| **node != own).for_each(|node| links.reset(*node));
                }
                Err(error) => tracing::error!("can't found the cluster: {error}"),
            }
            return;
        }
        sleep(LOOK).await;
    }
}

/// The stores of all founders, if all of them are ready.
async fn ready(
    own: NodeId,
    incarnation: u64,
    founders: &BTreeMap<NodeId, Place>,
    links: &Links,
) -> Option<BTreeMap<NodeId, u64>> {
    let ids: Vec<_> = founders.keys().copied().collect();
    let mut stores = BTreeMap::from([(own, incarnation)]);
    for node in ids.iter().filter(|node| **node != own) {
        let (founding, incarnation) = ask(links, *node, &ids).await?;
        match founding {
            Founding::Ready => drop(stores.insert(*node, incarnation)),
            Founding::Founded => return None,
            Founding::Differs => {
                tracing::warn!(
                    "node {node} would found a cluster of other nodes: make their configurations agree"
                );
                return None;
            }
        }
    }
    Some(stores)
}

async fn ask(links: &Links, node: NodeId, founders: &[NodeId]) -> Option<(Founding, u64)> {
    match links.to(node).ask(Request::Founding(founders.to_vec())).await {
        Ok(Reply::Founding { founding, incarnation }) => Some((founding, incarnation)),
        _ => None,
    }
}

impl Consensus {
    /// Lets a node join and vote. This node must lead. Takes its store's incarnation from itself; if the cluster knows it with
    /// another one, it must be removed first.
    pub async fn add(&self, node: NodeId, place: Place) -> Result<(), ConsensusError> {
        let _one_at_a_time = self.changing.lock().await;
        let (_, incarnation) = ask(&self.links, node, &[])
            .await
            .ok_or_else(|| ConsensusError::Members(self.unreachable(node)))?;
        let member = place.member(incarnation);
        let known = self.state().members.get(&node).copied();
        if let Some(known) = known.filter(|known| known.incarnation != incarnation) {
            return Err(ConsensusError::Members(format!(
                "node {node} has another store than the cluster knows ({:x}, not {:x}): remove it first",
                incarnation, known.incarnation
            )));
        }
        let learner = BTreeMap::from([(node.get(), Recorded(Some(member)))]);
        self.change(ChangeMembers::AddNodes(learner)).await?;
        // One whose removal was begun is drained.
        if known.is_none_or(|known| known.standing != member.standing) {
            self.write(Entry::Member(node, member)).await?;
        }
        self.wait_for(node, "catch up", || self.caught_up(node)).await?;
        let mut next = self.voters();
        next.insert(node);
        self.change_voters(node, next, ChangeMembers::AddVoterIds(BTreeSet::from([node.get()]))).await
    }

    /// Removes a node: drains it, takes it from the voters, then from the members. This node must lead; one that leads can't remove
    /// itself.
    pub async fn remove(&self, node: NodeId) -> Result<(), ConsensusError> {
        let _one_at_a_time = self.changing.lock().await;
        if node == self.own {
            return Err(ConsensusError::Members(format!("node {node} leads: let another node remove it")));
        }
        if let Some(member) = self.state().members.get(&node) {
            self.write(Entry::Member(node, Member { standing: Standing::Drained, ..*member })).await?;
        }
        let next = self.voters().without(node);
        self.change_voters(node, next, ChangeMembers::RemoveVoters(BTreeSet::from([node.get()]))).await?;
        self.wait_for(node, "give its VIPs away", || !self.state().holders().contains(node)).await?;
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node.get()]))).await.or_else(gone_already)?;
        self.write(Entry::RemoveMember(node)).await?;
        match self.state().members.contains_key(&node) {
            true => Err(ConsensusError::Members(format!("node {node} was given a VIP meanwhile: try again"))),
            false => Ok(()),
        }
    }

    fn unreachable(&self, node: NodeId) -> String {
        match self.state().members.contains_key(&node) {
            true => format!(
                "node {node} is a member and can't be reached: if it has lost its store, remove it first"
            ),
            false => format!("node {node} can't be reached: start netftd there first"),
        }
    }

    async fn change_voters(
        &self,
        node: NodeId,
        next: NodeSet,
        change: ChangeMembers<u16, Recorded>,
    ) -> Result<(), ConsensusError> {
        if self.voters() == next {
            return Ok(());
        }
        self.wait_for(node, "may change its vote", || {
            self.driver.look(|ownership| ownership.may_change_voters(&next))
        })
        .await?;
        self.change(change).await
    }

    async fn change(&self, change: ChangeMembers<u16, Recorded>) -> Result<(), ConsensusError> {
        // Nodes that leave the voters stay as learners until they are removed as such.
        let changed = timeout(STEP, self.raft.change_membership(change, true)).await;
        match changed.map_err(|_| ConsensusError::NoMajority)? {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }

    fn caught_up(&self, node: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let matched =
            metrics.replication.as_ref().and_then(|nodes| nodes.get(&node.get()).copied().flatten());
        matched.is_some_and(|matched| Some(matched.index) >= metrics.last_log_index)
    }

    async fn wait_for(
        &self,
        node: NodeId,
        what: &str,
        done: impl Fn() -> bool,
    ) -> Result<(), ConsensusError> {
        let until = Instant::now() + STEP;
        while !done() {
            let leader = self.driver.reign_now().leader;
            if leader != Some(self.own) {
                return Err(ConsensusError::NotLeader(leader));
            }
            if Instant::now() >= until {
                let why = format!("node {node} didn't {what} within {} s: try again", STEP.as_secs());
                return Err(ConsensusError::Members(why));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

fn gone_already(error: ConsensusError) -> Result<(), ConsensusError> {
    match error {
        ConsensusError::Members(_) => Ok(()),
        error => Err(error),
    }
}

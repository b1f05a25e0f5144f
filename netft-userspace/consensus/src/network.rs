//! How openraft reaches the others: its requests, over our links.

use crate::disk::Disk;
use crate::driver::Driver;
use crate::rpc::{Link, LinkError, Links, Reply, Request};
use crate::types::{PATIENCE, Recorded, Types, Vote};
use netft_core::types::NodeId;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use std::future::Future;
use std::time::Duration;

/// Between two tries while a peer can't be reached: requests wait for a connection anyway.
const BACKOFF: Duration = Duration::from_millis(1);
/// A snapshot is larger, and stored before it is acknowledged.
const SNAPSHOT_PATIENCE: Duration = PATIENCE.saturating_mul(10);

type Failure<E = RaftError<u16>> = RPCError<u16, Recorded, E>;

/// Makes a [`Peer`] for each node.
pub(crate) struct Network {
    pub(crate) links: Links,
    pub(crate) driver: Driver,
    pub(crate) disk: Disk,
}

/// One node.
pub(crate) struct Peer {
    node: Option<NodeId>,
    link: Option<Link>,
    driver: Driver,
    disk: Disk,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u16, _: &Recorded) -> Peer {
        let node = NodeId::new(target);
        let link = node.map(|node| self.links.to(node));
        Peer { node, link, driver: self.driver.clone(), disk: self.disk.clone() }
    }
}

impl Peer {
    async fn ask(&self, limit: Duration, request: Request) -> Result<Reply, LinkError> {
        match (&self.link, self.node) {
            (Some(link), _) => link.ask_within(limit, request).await,
            (None, node) => Err(LinkError::Unreachable(node.unwrap_or(NodeId::LOWEST))),
        }
    }

    fn other(&self) -> LinkError {
        LinkError::Other(self.node.unwrap_or(NodeId::LOWEST))
    }
}

fn failure(error: &LinkError) -> Failure {
    Unreachable::new(error).into()
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u16>, Failure> {
        if let Some(committed) = request.leader_commit {
            // Of two voters that hold an entry this node may be one.
            self.disk
                .holds(committed.index)
                .await
                .map_err(|error| Failure::from(Unreachable::new(&error)))?;
        }
        match self.ask(PATIENCE, Request::Append(request)).await {
            Ok(Reply::Append(response)) => {
                if let (Some(node), false) =
                    (self.node, matches!(response, AppendEntriesResponse::HigherVote(_)))
                {
                    self.driver.acknowledged_by(node);
                }
                Ok(response)
            }
            Ok(_) => Err(failure(&self.other())),
            Err(error) => Err(failure(&error)),
        }
    }

    async fn vote(&mut self, request: VoteRequest<u16>, _: RPCOption) -> Result<VoteResponse<u16>, Failure> {
        match self.ask(PATIENCE, Request::Vote(request)).await {
            Ok(Reply::Vote(response)) => Ok(response),
            Ok(_) => Err(failure(&self.other())),
            Err(error) => Err(failure(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u16>, StreamingError<Types, Fatal<u16>>> {
        let Ok(data) = String::from_utf8(*snapshot.snapshot) else {
            return Err(StreamingError::Network(NetworkError::new(&self.other())));
        };
        let request = Request::Snapshot { vote, meta: snapshot.meta, data };
        tokio::select! {
            reply = self.ask(SNAPSHOT_PATIENCE, request) => match reply {
                Ok(Reply::Snapshot(vote)) => Ok(SnapshotResponse::new(vote)),
                Ok(_) => Err(StreamingError::Unreachable(Unreachable::new(&self.other()))),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

//! Why a hello was not accepted, and why a configuration can't be.

use crate::session::StepRefused;
use netft_common::hello::HelloError;

/// Why a hello or a handshake step changed nothing. Each has its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloReject {
    /// Too short, a length that lies, a reserved field that isn't zero, a name that isn't UTF-8.
    #[error("the hello is malformed")]
    Malformed,
    /// A version this build doesn't speak.
    #[error("the hello has another wire version")]
    Version,
    /// Another cluster's.
    #[error("the hello belongs to another cluster")]
    OtherCluster,
    /// For another node.
    #[error("the hello is for another node")]
    Destination,
    /// The authenticator is wrong.
    #[error("the hello is not authentic")]
    Tag,
    /// Our own, come back.
    #[error("the hello is our own")]
    Reflected,
    /// Our id, another machine.
    #[error("the hello uses our own node id")]
    OwnId,
    /// Not in the configuration.
    #[error("the hello is from a node that is not configured")]
    UnknownNode,
    /// Name or id contradict the configuration.
    #[error("the hello contradicts the configured name or id")]
    Identity,
    /// Another machine with the id of a reachable peer.
    #[error("the hello uses the id of a reachable peer")]
    DuplicateId,
    /// Authentic, but it proves nothing new: answered (within limits) with our own hello, so that the next one can.
    #[error("the hello does not answer our challenge")]
    Unfresh,
    /// Of the session, but overtaken by a newer one.
    #[error("the hello is older than one already seen")]
    Old,
    /// A handshake step that nobody waits for, or from somebody without a session.
    #[error("the handshake step was not expected")]
    StepUnexpected,
    /// A handshake step not newer than what was seen.
    #[error("the handshake step is old")]
    StepOld,
    /// A handshake step whose inner part doesn't verify.
    #[error("the handshake step doesn't verify")]
    StepNoise,
    /// More handshakes than a peer needs.
    #[error("there are too many handshakes")]
    StepBusy,
}

impl From<HelloError> for HelloReject {
    fn from(error: HelloError) -> Self {
        match error {
            HelloError::Version => Self::Version,
            _ => Self::Malformed,
        }
    }
}

impl From<StepRefused> for HelloReject {
    fn from(refused: StepRefused) -> Self {
        match refused {
            StepRefused::Unexpected => Self::StepUnexpected,
            StepRefused::Old => Self::StepOld,
            StepRefused::Noise => Self::StepNoise,
            StepRefused::Busy => Self::StepBusy,
        }
    }
}

impl HelloReject {
    /// Number of reasons.
    pub const COUNT: usize = 16;
    /// Counter names, in order.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "hello_reject_malformed",
        "hello_reject_version",
        "hello_reject_other_cluster",
        "hello_reject_destination",
        "hello_reject_tag",
        "hello_reject_reflected",
        "hello_reject_own_id",
        "hello_reject_unknown_node",
        "hello_reject_identity",
        "hello_reject_duplicate_id",
        "hello_reject_unfresh",
        "hello_reject_old",
        "handshake_reject_unexpected",
        "handshake_reject_old",
        "handshake_reject_noise",
        "handshake_reject_busy",
    ];
}

/// Why a configuration can't replace the running one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureError {
    /// The cluster id differs.
    #[error("cluster.id can't change from {old} to {new} while the daemon runs: restart it")]
    ClusterId {
        /// Running.
        old: u32,
        /// Wanted.
        new: u32,
    },
    /// The own id differs.
    #[error("node.id can't change from {old} to {new} while the daemon runs: restart it")]
    NodeId {
        /// Running.
        old: u16,
        /// Wanted.
        new: u16,
    },
}

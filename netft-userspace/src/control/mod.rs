//! The control socket: a Unix stream; one JSON line asks, one JSON line answers (with `follow`, lines go on).
//!
//! Requests are [`Request`]s with a version; replies are the documents of [`crate::listing`], or a
//! [`Failure`](crate::listing::Failure). Everything is bounded: the length of a request, the number of connections,
//! and the time a silent one may keep its place.

mod client;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub(crate) use server::refusal;
pub use server::{Asked, Reply, Server, ServerError, parse};

use serde::{Deserialize, Serialize};

/// Version of the requests.
pub const VERSION: u32 = 1;
/// Longest request line, in bytes.
pub const REQUEST_MAX: usize = 16 * 1024;
/// Connections served at once.
pub const CONNECTIONS_MAX: usize = 64;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// [`crate::listing::Status`].
    Status,
    /// [`crate::listing::Nodes`].
    Nodes,
    /// [`crate::listing::Networks`].
    Networks,
    /// [`crate::listing::Routes`].
    Routes {
        /// With their history.
        #[serde(default)]
        history: bool,
        /// Only those of this peer, network or address.
        #[serde(default)]
        only: Option<String>,
    },
    /// [`crate::listing::Vips`].
    Vips,
    /// [`crate::listing::Changed`]: answered when the VIP is there.
    MoveVip {
        /// Its name.
        vip: String,
        /// The node's name.
        node: String,
    },
    /// [`crate::listing::Changed`]: answered when the cluster has it no more.
    RemoveVip {
        /// Its name.
        vip: String,
    },
    /// [`crate::listing::Events`].
    Events {
        /// Only those after this moment, nanoseconds since 1970.
        #[serde(default)]
        since_unix_ns: Option<u64>,
        /// Go on with new ones.
        #[serde(default)]
        follow: bool,
    },
    /// [`crate::listing::ConfigShow`].
    Config,
    /// [`crate::listing::Reload`].
    Reload {
        /// Only say what would change.
        #[serde(default)]
        dry_run: bool,
    },
    /// [`crate::listing::KeyRotate`].
    RotateKey {
        /// Give up the one that is under way.
        #[serde(default)]
        abort: bool,
    },
}

impl Request {
    /// Whether the user with this id may ask for it: what `control.group` is for is looking, and reading the configuration
    /// again; the secret's file is root's alone. The error is a sentence.
    pub fn permit(&self, user: u32) -> Result<(), String> {
        match self {
            Self::RotateKey { .. } if user != 0 => {
                Err("only root may replace the cluster secret: run this as root".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// A request as it crosses the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// The request.
    #[serde(flatten)]
    pub request: Request,
}

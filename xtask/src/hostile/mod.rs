//! What somebody on the network could send: frames made by hand, put on a lab's wires, and what comes back.
//!
//! The attacker stands at a node's port of the lab's switch: it hears what the node sends and can send it anything,
//! with any addresses. It does not know the cluster secret.

mod frame;
mod overheard;
mod port;

pub use frame::{Message, Path, message};
pub use overheard::{ATTACKER, Overheard, flipped};
pub use port::{Ear, Port};

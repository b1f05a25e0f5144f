//! Which routes a frame takes, and what becomes of it when they die. Runs on the data threads; nothing here allocates for
//! a frame.

mod flow;
mod keep;
mod outlets;

pub use flow::flow_of;
pub use keep::{BLOCK, Evidence, Keep, Kept};
pub use outlets::{Outlet, Outlets, SPREAD_WITHIN};

use serde::{Deserialize, Serialize};

/// Which routes carry cluster traffic to a peer: `datapath.policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The active one. What it may have lost is sent again over the next.
    #[default]
    Failover,
    /// Those that are up and nearly as good as the best one: each flow keeps to one of them.
    Spread,
    /// The two best ones carry every frame; the receiver drops the copy.
    Duplicate,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Failover, Self::Spread, Self::Duplicate];

    /// As a small number, for a word that threads share.
    pub fn to_word(self) -> u64 {
        match self {
            Self::Failover => 0,
            Self::Spread => 1,
            Self::Duplicate => 2,
        }
    }

    /// From such a number; the default for any that is none.
    pub fn from_word(word: u64) -> Self {
        Self::ALL.into_iter().find(|policy| policy.to_word() == word).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_survive_their_words() {
        for policy in Policy::ALL {
            assert_eq!(Policy::from_word(policy.to_word()), policy);
        }
        assert_eq!(Policy::from_word(u64::MAX), Policy::Failover);
    }
}

//! What must be known at the next start, before anything of the cluster is heard: which addresses may be on interfaces here, and
//! who founds the cluster.

use crate::config::{Existing, WriteError, write_new};
use netft_consensus::Place;
use netft_core::ownership::{Standing, VipAddress, VipId};
use netft_core::types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Folder of all of it, below that of the daemon's state.
pub const FOLDER: &str = "ownership";
const VIPS: &str = "vips.json";
const FOUNDERS: &str = "founders.json";

/// Addresses by the number that fences them.
pub type Addresses = BTreeMap<VipId, Vec<VipAddress>>;

/// As an earlier daemon left them. None if the file is missing: then none was ever added.
pub fn load_addresses(folder: &Path) -> Addresses {
    load(&folder.join(VIPS)).unwrap_or_default()
}

/// Before one of them is added to an interface.
pub fn store_addresses(folder: &Path, addresses: &Addresses) -> Result<(), WriteError> {
    store(&folder.join(VIPS), addresses)
}

#[derive(Serialize, Deserialize)]
struct StoredPlace {
    site: u16,
    subnet: u16,
    standing: Standing,
}

/// The nodes that found the cluster, as they were first found.
pub fn load_founders(folder: &Path) -> Option<BTreeMap<NodeId, Place>> {
    let stored: BTreeMap<NodeId, StoredPlace> = load(&folder.join(FOUNDERS))?;
    let place =
        |stored: StoredPlace| Place { site: stored.site, subnet: stored.subnet, standing: stored.standing };
    Some(stored.into_iter().map(|(node, stored)| (node, place(stored))).collect())
}

/// Before consensus starts for the first time.
pub fn store_founders(folder: &Path, founders: &BTreeMap<NodeId, Place>) -> Result<(), WriteError> {
    let stored =
        |place: &Place| StoredPlace { site: place.site, subnet: place.subnet, standing: place.standing };
    let stored: BTreeMap<NodeId, StoredPlace> =
        founders.iter().map(|(node, place)| (*node, stored(place))).collect();
    store(&folder.join(FOUNDERS), &stored)
}

fn load<T: for<'de> Deserialize<'de>>(file: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn store(file: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    write_new(file, &serde_json::to_vec(value).unwrap_or_default(), 0o600, Existing::Replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back() {
        let folder = std::env::temp_dir().join(format!("netft-kept-{}", std::process::id()));
        let node = NodeId::new(3).unwrap();
        assert_eq!(load_founders(&folder), None);
        assert_eq!(load_addresses(&folder), Addresses::new());
        let founders = BTreeMap::from([(node, Place { site: 1, subnet: 2, standing: Standing::Witness })]);
        store_founders(&folder, &founders).unwrap();
        assert_eq!(load_founders(&folder), Some(founders));
        let addresses = Addresses::from([(
            VipId::new(7).unwrap(),
            vec!["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        )]);
        store_addresses(&folder, &addresses).unwrap();
        assert_eq!(load_addresses(&folder), addresses);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

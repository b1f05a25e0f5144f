//! Which name belongs to which node id, kept in the state folder: a restarted daemon takes routes over before their
//! peers have said their names again.

use crate::config::{Existing, WriteError, write_new};
use netft_core::types::NodeId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names by node id.
pub(super) struct Names {
    file: PathBuf,
    names: BTreeMap<NodeId, String>,
}

impl Names {
    /// As an earlier daemon left them; none if the file is missing or makes no sense: it is only a convenience.
    pub fn load(folder: &Path) -> Self {
        let file = folder.join("names.json");
        let read = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let entries: Vec<(NodeId, String)> = read.unwrap_or_default();
        Self { file, names: entries.into_iter().collect() }
    }

    /// The name of a node.
    pub fn get(&self, id: NodeId) -> Option<String> {
        self.names.get(&id).cloned()
    }

    /// A node said its name.
    pub fn learn(&mut self, id: NodeId, name: &str) -> Result<(), WriteError> {
        if self.names.get(&id).is_some_and(|known| known == name) {
            return Ok(());
        }
        self.names.retain(|_, known| known != name);
        self.names.insert(id, name.to_owned());
        let entries: Vec<_> = self.names.iter().collect();
        let text = serde_json::to_vec(&entries).unwrap_or_default();
        write_new(&self.file, &text, 0o600, Existing::Replace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outlive_the_daemon() {
        let folder = std::env::temp_dir().join(format!("netft-names-{}", std::process::id()));
        let id = |id| NodeId::new(id).unwrap();
        let mut names = Names::load(&folder);
        names.learn(id(2), "n2").unwrap();
        names.learn(id(3), "n3").unwrap();
        // A node that got another id.
        names.learn(id(4), "n3").unwrap();
        let again = Names::load(&folder);
        assert_eq!([2, 3, 4].map(|n| again.get(id(n))), [Some("n2".into()), None, Some("n3".into())]);
        std::fs::write(folder.join("names.json"), "garbage").unwrap();
        assert_eq!(Names::load(&folder).get(id(2)), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

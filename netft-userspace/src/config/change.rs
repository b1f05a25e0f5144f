//! What a new configuration would change, for `netft reload`.

use super::Config;
use super::keys::{self, Applies};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Dotted path.
    pub key: String,
    /// The value in effect now, `null` = not set.
    pub old: Value,
    /// The value in the file.
    pub new: Value,
    /// What becomes of it.
    pub effect: Effect,
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// With this reload.
    Now,
    /// Only when netftd is restarted.
    Restart,
}

/// Every key whose effective value differs, in the order of the new configuration.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let before: BTreeMap<String, Value> = old.entries().into_iter().collect();
    let after = new.entries();
    let removed = before.iter().filter(|(key, _)| !after.iter().any(|(k, _)| k == *key));
    let removed = removed.map(|(key, value)| (key.clone(), value.clone(), Value::Null)).collect::<Vec<_>>();
    let kept = after.into_iter().map(|(key, value)| {
        let old = before.get(&key).cloned().unwrap_or(Value::Null);
        (key, old, value)
    });
    kept.chain(removed)
        .filter(|(_, old, new)| old != new)
        .map(|(key, old, new)| {
            let live = keys::find(&key).is_some_and(|k| k.applies == Applies::Live);
            Change { key, old, new, effect: if live { Effect::Now } else { Effect::Restart } }
        })
        .collect()
}

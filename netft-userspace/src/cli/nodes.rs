//! `netft nodes`.

use super::text::{ago, or_dash, table, word};
use crate::listing::Nodes;

pub(super) fn text(nodes: &Nodes) -> String {
    let rows = nodes.nodes.iter().map(|node| {
        let adapter = node.adapter.as_ref();
        vec![
            if node.local { format!("{} *", node.name) } else { node.name.clone() },
            or_dash(node.id),
            or_dash(node.site.clone()),
            word(node.state),
            or_dash(adapter.map(|adapter| adapter.ipv4)),
            or_dash(adapter.map(|adapter| adapter.ipv6)),
            ago(node.last_change.as_ref()),
        ]
    });
    table(&["node", "id", "site", "state", "netft0", "", "since"], rows.collect())
}

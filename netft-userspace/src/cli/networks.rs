//! `netft networks`.

use super::text::{table, word};
use crate::listing::Networks;

pub(super) fn text(networks: &Networks) -> String {
    let mut rows = Vec::new();
    for network in &networks.networks {
        rows.push(vec![
            network.name.clone(),
            word(network.state),
            format!("{}/{}", network.routes_up, network.routes),
            word(network.role),
            network.metric.to_string(),
            network.subnets.first().cloned().unwrap_or_default(),
            network.interfaces.join(","),
        ]);
        for subnet in network.subnets.iter().skip(1) {
            let mut row = vec![String::new(); 5];
            row.push(subnet.clone());
            rows.push(row);
        }
    }
    table(&["network", "state", "routes", "role", "metric", "subnets", "here"], rows)
}

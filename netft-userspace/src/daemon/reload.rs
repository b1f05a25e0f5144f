//! A new configuration while running: first what would change, then the changes; a file with a mistake changes nothing.

use super::{Daemon, Note};
use crate::config::{Config, Effect, changes};
use crate::engine::DatapathOptions;
use crate::listing::Reload;

/// Whether to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only say what would change.
    DryRun,
    /// Do it.
    Apply,
}

impl Daemon {
    /// Reads the file again. The error is a sentence (or several lines of them).
    pub(super) async fn reload(&mut self, mode: Mode) -> Result<Reload, String> {
        let new = Config::load(&self.config.file).map_err(|error| error.to_string())?;
        let changes = changes(&self.config, &new);
        let document = Reload {
            file: self.config.file.display().to_string(),
            applied: mode == Mode::Apply,
            changes: changes.clone(),
        };
        if mode == Mode::DryRun {
            return Ok(document);
        }
        let effective = keep_until_restart(&self.config, new);
        let now = crate::sys::boottime();
        self.membership.reconfigure(now, effective.membership()).map_err(|error| error.to_string())?;
        self.engine.configure(effective.detector());
        self.engine.set_datapath(effective.datapath);
        self.record.limit(effective.event_history, effective.route_history);
        self.config = effective;
        let _ = self.check_key_file();
        self.start_ownership();
        if let Some(ownership) = &self.ownership {
            ownership.wish(super::vips::wishes(&self.config));
        }
        // Peers may have other addresses, which other local addresses lead to.
        self.introduce_interfaces();
        self.drain().await;
        for change in &changes {
            let when = match change.effect {
                Effect::Now => "in effect now",
                Effect::Restart => "in effect after a restart of netftd",
            };
            let text = format!("{} changes from {} to {}: {when}", change.key, change.old, change.new);
            self.note(Note::Info, "config", &change.key, &text);
        }
        if changes.is_empty() {
            self.note(Note::Info, "config", "reload", "the configuration was read again: nothing differs");
        }
        Ok(document)
    }
}

/// `new`, with what can't change while running as it is.
fn keep_until_restart(running: &Config, new: Config) -> Config {
    Config {
        cluster_id: running.cluster_id,
        node_name: running.node_name.clone(),
        node_id: running.node_id,
        node_site: running.node_site.clone(),
        witnesses: running.witnesses.clone(),
        key_file: running.key_file.clone(),
        versions: running.versions,
        engine: crate::config::EngineConfig {
            timeout_ns: new.engine.timeout_ns,
            absence_ns: new.engine.absence_ns,
            ..running.engine.clone()
        },
        datapath: DatapathOptions { keep: running.datapath.keep, ..new.datapath },
        socket: running.socket.clone(),
        group: running.group.clone(),
        adapter_name: running.adapter_name.clone(),
        state_dir: running.state_dir.clone(),
        pin_dir: running.pin_dir.clone(),
        log_packets: running.log_packets,
        ..new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_needs_a_restart_stays_and_the_rest_changes() {
        let parse = |text: &str| Config::parse(Path::new("/x/netft.toml"), text).unwrap();
        let running = parse("cluster.id = 1\nnode = { id = 1, name = \"a\" }\n");
        let new = parse(
            "cluster = { id = 2, name = \"other\" }\nnode = { id = 9, name = \"b\", site = \"s\" }\n\
             security.key_file = \"/k\"\nadapter.name = \"x\"\npaths = { state = \"/s\", pins = \"/p\" }\n\
             control = { socket = \"/c\", group = \"g\" }\nengine = { wait = \"spin\", timeout = \"1s\", absence = \"2s\" }\nlog.packets = true\n\
             datapath = { policy = \"duplicate\", keep = \"2MiB\" }\n\
             heartbeat.same_subnet.delay = \"2ms\"\nroutes.history = 7\nevents.history = 77\n\
             [peer.p]\naddresses = [\"10.0.0.9\"]\n",
        );
        let effective = keep_until_restart(&running, new.clone());
        // Nothing that takes effect at once may still differ from the file, and nothing else may have changed.
        let pending = changes(&effective, &new);
        assert!(pending.iter().all(|change| change.effect == Effect::Restart), "{pending:?}");
        let done = changes(&running, &effective);
        assert!(done.iter().all(|change| change.effect == Effect::Now), "{done:?}");
        assert_eq!(pending.len() + done.len(), changes(&running, &new).len());
    }
}

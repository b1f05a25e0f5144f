//! `netft init`.

use super::{Cli, Failure, Result, print, print_json};
use crate::config::{Config, Existing, Secret, SecretError, own_host_name, write_new};
use crate::netlink::Monitor;
use netft_core::membership::Interface;
use netft_core::types::NodeId;
use serde_json::json;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// What can't be found out, or shall be otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of the cluster, equal on all nodes [default: a random one]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    cluster_id: Option<u32>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    name: Option<String>,
    /// Number of this node, 1 to 255 [default: the last number of its first IPv4 address]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=255))]
    id: Option<u16>,
    /// Another node and one of its addresses; repeat for each
    #[arg(long = "peer", value_name = "NAME=ADDRESS", value_parser = peer)]
    peers: Vec<(String, Vec<IpAddr>)>,
    /// Replace a configuration that is there (the secret is kept)
    #[arg(long)]
    force: bool,
}

/// `n2=10.0.1.2` or `n2=10.0.1.2,10.0.2.2`.
pub(super) fn peer(text: &str) -> std::result::Result<(String, Vec<IpAddr>), String> {
    let how = || "write NAME=ADDRESS, like n2=10.0.1.2".to_owned();
    let (name, addresses) = text.split_once('=').ok_or_else(how)?;
    let addresses = addresses
        .split(',')
        .map(|address| address.parse().map_err(|_| how()))
        .collect::<std::result::Result<_, _>>()?;
    Ok((name.to_owned(), addresses))
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    let file = &cli.config;
    if file.exists() && !args.force {
        return Err(Failure::new(
            1,
            format!("{} exists already and was left as it is: use --force to replace it", file.display()),
        ));
    }
    let interfaces = interfaces();
    let draft = Draft {
        cluster_id: match args.cluster_id {
            Some(id) => id,
            None => random_id()?,
        },
        name: args.name.clone().or_else(own_host_name).ok_or_else(|| {
            Failure::new(1, "this host has no name that a node can have: give one with --name")
        })?,
        id: match args.id {
            Some(id) => id,
            None => guess_id(&interfaces).ok_or_else(|| {
                Failure::new(
                    1,
                    "no interface has an IPv4 address to take the node's number from: give one with --id",
                )
            })?,
        },
        peers: &args.peers,
        interfaces: &interfaces,
    };
    let text = draft.text();
    let config =
        Config::parse(file, &text).map_err(|error| Failure::new(1, blame_arguments(&error.to_string())))?;
    let secret_is_new = match Secret::load(&config.key_file) {
        Ok(_) => false,
        Err(SecretError::Missing(_)) => {
            let secret = Secret::generate().map_err(|error| Failure::new(1, error))?;
            secret.write(&config.key_file, Existing::Keep).map_err(|error| Failure::new(1, error))?;
            true
        }
        Err(error) => return Err(Failure::new(4, error)),
    };
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    write_new(file, text.as_bytes(), 0o644, existing).map_err(|error| Failure::new(1, error))?;
    if cli.json {
        return print_json(&json!({
            "version": 1, "config": file, "secret": config.key_file, "secret_is_new": secret_is_new,
            "cluster_id": draft.cluster_id, "name": draft.name, "id": draft.id,
            "interfaces": interfaces.iter().map(|interface| &interface.name).collect::<Vec<_>>(),
        }));
    }
    print(&draft.next_steps(file, &config.key_file, secret_is_new))
}

/// The file is ours: what is wrong with it came from the command line.
fn blame_arguments(error: &str) -> String {
    let sentences = error.lines().map(|line| line.split_once(": ").map_or(line, |(_, sentence)| sentence));
    format!("nothing was written: {}", sentences.collect::<Vec<_>>().join("; "))
}

/// What netftd would use; nothing if the kernel doesn't say.
fn interfaces() -> Vec<Interface> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    runtime.block_on(async {
        let Ok(mut monitor) = Monitor::new(vec!["netft0".to_owned()]) else { return Vec::new() };
        monitor.next().await.map(|listing| listing.interfaces).unwrap_or_default()
    })
}

fn random_id() -> Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| Failure::new(1, error))?;
    Ok(u32::from_le_bytes(bytes).max(1))
}

/// Nodes of a cluster share subnets, so the last number of an address tells them apart.
fn guess_id(interfaces: &[Interface]) -> Option<u16> {
    let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
    let last = addresses.filter_map(|(address, _)| match address {
        IpAddr::V4(v4) => Some(u16::from(v4.octets()[3])),
        IpAddr::V6(_) => None,
    });
    last.into_iter().find(|last| NodeId::new(*last).is_some())
}

struct Draft<'a> {
    cluster_id: u32,
    name: String,
    id: u16,
    peers: &'a [(String, Vec<IpAddr>)],
    interfaces: &'a [Interface],
}

impl Draft<'_> {
    fn text(&self) -> String {
        let mut out = String::from(
            "# Written by `netft init`. Every key: docs/config.md. After a change: `netft reload`.\n",
        );
        let _ = writeln!(out, "\n[cluster]\nid = {} # equal on all nodes", self.cluster_id);
        let _ = writeln!(out, "\n[node]\nname = {:?}\nid = {} # different on each node", self.name, self.id);
        for (name, addresses) in self.peers {
            let bare =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            let key = if bare { name.clone() } else { format!("{name:?}") };
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "\n[peer.{key}]\naddresses = {addresses:?}");
        }
        if self.peers.is_empty() {
            out += "\n# Each other node, with one address at which it can be met:\n#[peer.n2]\n#addresses = [\"10.0.1.2\"]\n";
        }
        out += "\n[security]\nkey_file = \"secret\" # beside this file, mode 0600, equal on all nodes\n";
        out += "\n# Detection time is delay x threshold: 5 ms here.\n[heartbeat.same_subnet]\ndelay = \"1ms\"\nthreshold = 5\n";
        if !self.interfaces.is_empty() {
            out += "\n# Interfaces found; networks are made of their subnets by themselves:\n";
        }
        for interface in self.interfaces {
            let _ = writeln!(out, "#   {}", describe(interface));
        }
        out
    }

    fn next_steps(&self, file: &Path, secret: &Path, secret_is_new: bool) -> String {
        let mut out = format!(
            "wrote {} (node {}, id {}, cluster {})\n",
            file.display(),
            self.name,
            self.id,
            self.cluster_id
        );
        let _ = match secret_is_new {
            true => writeln!(out, "wrote {} (new secret, mode 0600)", secret.display()),
            false => writeln!(out, "kept  {} (the secret that was there)", secret.display()),
        };
        if self.interfaces.is_empty() {
            out += "no usable interface was found yet: netftd takes them when they come\n";
        } else {
            out += "interfaces that netftd will use:\n";
        }
        for interface in self.interfaces {
            let _ = writeln!(out, "  {}", describe(interface));
        }
        let own = self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .map(|(ip, _)| ip.to_string())
            .next();
        let own = own.unwrap_or_else(|| "ADDRESS".to_owned());
        let _ = write!(
            out,
            "next:\n  1. copy {} to the same place on each other node (mode 0600), and there run\n     \
             netft init --cluster-id {} --peer {}={own}\n",
            secret.display(),
            self.cluster_id,
            self.name,
        );
        if self.peers.is_empty() {
            let _ = writeln!(out, "  2. name the other nodes in {} as [peer.NAME]", file.display());
        } else {
            let names: Vec<&str> = self.peers.iter().map(|(name, _)| name.as_str()).collect();
            let _ = writeln!(
                out,
                "  2. the peers are {}: add others to {} as [peer.NAME]",
                names.join(", "),
                file.display()
            );
        }
        let _ =
            writeln!(out, "  3. systemctl enable --now netftd (or run netftd --config {})", file.display());
        out += "  4. netft status; netft routes\n";
        out
    }
}

fn describe(interface: &Interface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(|(ip, len)| format!("{ip}/{len}")).collect();
    let role = if interface.default_route { ", has a default gateway: role 3" } else { ", role 1" };
    format!("{} {}{role}", interface.name, addresses.join(" "))
}

//! `cargo xtask lab`: the commands of `docs/lab.md`.

use super::ports::Direction;
use super::setting::Setting;
use super::shape::Shape;
use super::stress::{self, Kind};
use super::{Daemons, Lab, Options, Stamps};
use anyhow::Result;
use clap::{ArgAction, Subcommand};
use std::process::Command;
use std::time::Instant;

/// Command line.
#[derive(clap::Args)]
pub struct Args {
    /// Name of the lab: the prefix of its namespaces.
    #[arg(long, global = true, default_value = "nf", value_name = "LAB")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build a lab and start its daemons; one of the same name is taken down first.
    Up(Up),
    /// End every process in the lab and leave nothing of it.
    Down,
    /// Show what exists, and what is cut, unplugged, frozen, dead or powered off.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a host's namespace and pass its exit status.
    Exec {
        /// n1, n2, …, client or router.
        host: String,
        /// The command, after `--`.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run `netft` for a node's daemon and pass its output and exit status.
    Netft {
        /// n1, n2, …
        node: String,
        /// Arguments for netft, after `--`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make a path silent without taking its carrier away.
    Cut(Path),
    /// End a cut.
    Heal(Path),
    /// Take a path's carrier away.
    Unplug(Plug),
    /// Give it back.
    Plug(Plug),
    /// SIGKILL a node's daemon.
    Kill(Node),
    /// Start a node's daemon and wait until it answers.
    Start(Node),
    /// SIGSTOP a node's daemon.
    Freeze(Node),
    /// SIGCONT it.
    Thaw(Node),
    /// Silence all paths of a node in one step, SIGKILL its daemon, remove its pins.
    PowerOff(Node),
    /// Give the paths back and start the daemon on the same state.
    PowerOn(Node),
    /// Load every core of this machine.
    Stress {
        /// What kind of load.
        kind: Kind,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

#[derive(clap::Args)]
struct Up {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How many networks [default: 2].
    #[arg(long)]
    networks: Option<u32>,
    /// Two cluster subnets and two client subnets, joined by a router.
    #[arg(long)]
    routed: bool,
    /// How many queues each cable has in each direction.
    #[arg(long, default_value_t = 1)]
    queues: u32,
    /// Put a TOML value at a dotted key of every node's netft.toml. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", action = ArgAction::Append)]
    settings: Vec<Setting>,
    /// Build no daemons and start none.
    #[arg(long)]
    daemon_less: bool,
}

#[derive(clap::Args)]
struct Path {
    /// n1, n2, …, client or router.
    host: String,
    /// net1, net2, …
    network: String,
    /// Only what the host transmits.
    #[arg(long, conflicts_with = "rx")]
    tx: bool,
    /// Only what the host would receive.
    #[arg(long)]
    rx: bool,
}

impl Path {
    fn direction(&self) -> Direction {
        match (self.tx, self.rx) {
            (true, _) => Direction::Tx,
            (_, true) => Direction::Rx,
            (false, false) => Direction::Both,
        }
    }
}

#[derive(clap::Args)]
struct Plug {
    /// n1, n2, …, client or router.
    host: String,
    /// net1, net2, …
    network: String,
}

#[derive(clap::Args)]
struct Node {
    /// n1, n2, …
    node: String,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let name = &args.name;
    let open = || Lab::open(name);
    match args.verb {
        Verb::Up(up) => run_up(name, up),
        Verb::Down => Lab::down(name),
        Verb::Status { json } => {
            let status = open()?.status()?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&status)?),
                false => print!("{status}"),
            }
            Ok(())
        }
        Verb::Exec { host, command } => {
            let mut line = Command::new(&command[0]);
            line.args(&command[1..]);
            pass_through(&open()?, &host, line)
        }
        Verb::Netft { node, arguments } => {
            let lab = open()?;
            let mut line = lab.netft_command(&node)?;
            line.args(arguments);
            pass_through(&lab, &node, line)
        }
        Verb::Cut(path) => open()?.cut(&path.host, &path.network, path.direction()).map(print),
        Verb::Heal(path) => open()?.heal(&path.host, &path.network, path.direction()).map(drop),
        Verb::Unplug(path) => open()?.unplug(&path.host, &path.network).map(print),
        Verb::Plug(path) => open()?.plug(&path.host, &path.network).map(drop),
        Verb::Kill(node) => open()?.kill(&node.node).map(print),
        Verb::Start(node) => open()?.start(&node.node).map(drop),
        Verb::Freeze(node) => open()?.freeze(&node.node).map(print),
        Verb::Thaw(node) => open()?.thaw(&node.node).map(drop),
        Verb::PowerOff(node) => open()?.power_off(&node.node).map(print),
        Verb::PowerOn(node) => open()?.power_on(&node.node).map(drop),
        Verb::Stress { kind, seconds } => stress::run_for(kind, seconds),
    }
}

fn run_up(name: &str, up: Up) -> Result<()> {
    let networks = up.networks.unwrap_or(if up.routed { 4 } else { 2 });
    let shape =
        Shape { name: name.to_owned(), nodes: up.nodes, networks, routed: up.routed, queues: up.queues };
    let daemons = if up.daemon_less { Daemons::None } else { Daemons::Started };
    if daemons == Daemons::Started {
        super::build()?;
    }
    let start = Instant::now();
    let lab = Lab::up(&Options { shape, settings: up.settings, daemons })?;
    print!("{}", lab.status()?);
    println!(
        "up after {:.1} s; files in {}",
        start.elapsed().as_secs_f64(),
        super::lab_folder(name).display()
    );
    Ok(())
}

fn print(stamps: Stamps) {
    println!("before_ns={} after_ns={}", stamps.before_ns, stamps.after_ns);
}

/// Runs `command` on our own standard input and outputs, and ends this process as it ended.
fn pass_through(lab: &Lab, host: &str, mut command: Command) -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    let status = lab.spawn(host, &mut command)?.wait()?;
    // A shell's way to say that a signal ended it.
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    std::process::exit(code)
}

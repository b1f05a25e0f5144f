//! `netft`, the command line: one file per verb. Man pages and completions come from the same definition.

mod completions;
mod config;
mod events;
mod init;
mod key;
mod man;
mod networks;
mod nodes;
mod reload;
mod routes;
mod status;
#[cfg(test)]
mod tests;
mod text;
mod vips;

use crate::config::{Config, DEFAULT_FILE, DEFAULT_SOCKET};
use crate::control::{Client, ClientError, Request};
use crate::listing::Versioned;
use clap::{CommandFactory, Parser, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Exit status:
  0  done
  1  failed
  2  wrong command line
  3  netftd isn't running, or its socket can't be used
  4  the configuration or the secret was refused";

/// Shows and changes the network of the cluster.
///
/// netftd keeps every route to every peer under watch and moves the traffic of netft0 to one that works; netft shows
/// what it sees. Every listing has --json; the fields are a contract (docs/json.md).
#[derive(Debug, Parser)]
#[command(name = "netft", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Control socket of netftd [default: control.socket of the configuration file]
    #[arg(long, global = true, value_name = "PATH", env = "NETFT_SOCKET")]
    socket: Option<PathBuf>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", env = "NETFT_CONFIG", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print JSON (docs/json.md)
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// This node at a glance: engine, interfaces, counters
    Status,
    /// Every node and its state
    Nodes,
    /// Every network, its role and metric
    Networks,
    /// Every route, which ones carry traffic, and why one is down
    Routes(routes::Args),
    /// Every virtual IP address: who has it, since when, and why
    Vips,
    /// Move or remove a virtual IP address
    Vip(vips::Args),
    /// What happened
    Events(events::Args),
    /// Read the configuration file again: says what changes, then changes it
    Reload(reload::Args),
    /// Judge or show the configuration
    Config(config::Args),
    /// Write a working configuration for this node, and the secret if there is none
    Init(init::Args),
    /// The cluster secret
    Key(key::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Print the man page, or write all of them into a folder
    Man(man::Args),
}

/// Why a verb failed, with its exit status.
#[derive(Debug)]
struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    fn new(status: u8, message: impl ToString) -> Self {
        Self { status, message: message.to_string() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let status = match error {
            ClientError::NotRunning(_) | ClientError::Permission(_) | ClientError::Broken { .. } => 3,
            ClientError::Strange { .. } | ClientError::Refused(_) => 1,
        };
        Self::new(status, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(1, format!("can't write the output: {error}"))
    }
}

type Result<T = ()> = std::result::Result<T, Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("netft: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

impl Cli {
    fn run(&self) -> Result {
        match &self.verb {
            Verb::Status => self.list(Request::Status, status::text),
            Verb::Nodes => self.list(Request::Nodes, nodes::text),
            Verb::Networks => self.list(Request::Networks, networks::text),
            Verb::Routes(args) => routes::run(self, args),
            Verb::Vips => self.list(Request::Vips, vips::text),
            Verb::Vip(args) => vips::run(self, args),
            Verb::Events(args) => events::run(self, args),
            Verb::Reload(args) => reload::run(self, args),
            Verb::Config(args) => config::run(self, args),
            Verb::Init(args) => init::run(self, args),
            Verb::Key(args) => key::run(self, args),
            Verb::Completions(args) => completions::run(args, &mut Self::command()),
            Verb::Man(args) => man::run(args, Self::command()),
        }
    }

    /// The socket: as told, or as configured, or where it usually is.
    fn socket(&self) -> PathBuf {
        let configured = || Config::socket_of(&self.config);
        self.socket.clone().or_else(configured).unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.socket())?)
    }

    /// Asks for one document and prints it: as it came with `--json`, else by `text`.
    fn list<T: DeserializeOwned>(&self, request: Request, text: fn(&T) -> String) -> Result {
        let mut client = self.connect()?;
        let value = client.ask(request)?;
        if self.json {
            return print_json(&value);
        }
        let document: Versioned<T> = client.read(&value)?;
        print(&text(&document.document))
    }
}

/// Prints a document: indented for a person, one line for a program.
fn print_json(value: &Value) -> Result {
    let terminal = std::io::stdout().is_terminal();
    let text = if terminal { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    let text = text.map_err(|error| Failure::new(1, error))?;
    print(&(text + "\n"))
}

/// Prints text; a reader that has gone (`netft events | head`) is no failure.
fn print(text: &str) -> Result {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

//! The daemon: `netftd [--config FILE] [--check]`.

use clap::Parser;
use netft_common::wire::Versions;
use netft_userspace::config::{Config, DEFAULT_FILE};
use netft_userspace::daemon;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The daemon of netft: keeps the cluster connected over every network it has.
///
/// SIGTERM and SIGINT stop it cleanly (goodbye to the peers, nothing left behind), SIGHUP reloads the configuration.
/// A killed daemon leaves its XDP programs answering; the next start takes them over.
///
/// Exit status: 0 clean stop, 1 failure, 2 wrong command line, 4 configuration or secret refused.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, env = "NETFT_CONFIG")]
    config: PathBuf,
    /// Only judge the configuration and the secret, start nothing
    #[arg(long)]
    check: bool,
    /// For tests: speak other wire versions than this build's, as OLDEST-NEWEST; versions to come are laid out as the newest
    #[arg(long, value_name = "VERSIONS", hide = true, value_parser = versions)]
    test_wire_versions: Option<Versions>,
}

fn versions(text: &str) -> Result<Versions, String> {
    let parts =
        text.split_once('-').and_then(|(oldest, newest)| Some((oldest.parse().ok()?, newest.parse().ok()?)));
    match parts {
        Some((oldest, newest)) if 0 < oldest && oldest <= newest => Ok(Versions { oldest, newest }),
        _ => Err("OLDEST-NEWEST, each 1 to 255".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => return fail(4, &error),
    };
    config.versions = args.test_wire_versions.unwrap_or_default();
    if let Err(error) = daemon::check(&config) {
        return fail(4, &error);
    }
    if args.check {
        println!("{} is valid", args.config.display());
        return ExitCode::SUCCESS;
    }
    // openraft speaks of its every step.
    let default = if config.log_packets { "info,openraft=off,xdp=debug" } else { "info,openraft=off" };
    let filter = EnvFilter::try_from_env("NETFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(terminal)
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    match runtime.block_on(daemon::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

fn fail(status: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("netftd: {error}");
    ExitCode::from(status)
}

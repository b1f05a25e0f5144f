//! From a configuration to a running daemon, or one sentence that says why not.

use super::{Daemon, Watchdog};
use crate::config::{Config, Secret, SecretError, load_next_secret, remove_leftovers};
use crate::control::{Asked, Server, ServerError};
use crate::engine::{self, Engine, EngineError, EngineOptions, StopMode, XdpMode};
use crate::netlink::{Monitor, NetlinkError};
use crate::pressure::Pressure;
use crate::rtnl;
use netft_core::adapter::AdapterSeed;
use netft_core::keys;
use netft_core::membership::{Interface, Membership};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Why the daemon doesn't start. Nothing was changed on this host then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The cluster secret, as the protocol sees it.
    #[error(transparent)]
    Key(#[from] keys::SecretError),
    /// The control socket.
    #[error(transparent)]
    Socket(ServerError),
    /// The state folder.
    #[error("the state folder {} can't be used ({source}): run netftd as root, or set paths.state", .folder.display())]
    State {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another daemon has it.
    #[error("another netftd uses the state folder {}: stop it first, or give this one its own paths.state", .0.display())]
    Locked(PathBuf),
    /// The interface list.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Programs, maps, adapter, threads.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No interface can be used as it is.
    #[error("{0}")]
    Interface(String),
    /// No random numbers.
    #[error("the kernel gives no random numbers ({0}): see `dmesg`")]
    Random(#[from] getrandom::Error),
}

/// Everything that can be judged without starting: the configuration was read, now its secret.
pub fn check(config: &Config) -> Result<Secret, SecretError> {
    Secret::load(&config.key_file)
}

impl Daemon {
    /// Starts everything; requests from the control socket go to `asked`.
    pub(super) async fn start(config: Config, asked: mpsc::Sender<Asked>) -> Result<Self, StartError> {
        check(&config)?;
        engine::check_privilege()?;
        Server::check_free(&config.socket)?;
        let lock = lock(&config.state_dir)?;
        // Not before: a daemon that is about to end may write a moment longer. Nobody writes now but this one.
        remove_leftovers(&config.key_file);
        let secret = check(&config)?;
        let next_secret = load_next_secret(&config.key_file)?;
        let mut monitor = Monitor::new(vec![config.adapter_name.clone()])?;
        let listing = monitor.next().await?;
        let seed =
            AdapterSeed::new(first_mac(&listing.interfaces, &config), adapter_mac(&config.adapter_name));
        let mut engine = Engine::start(EngineOptions {
            cluster_id: config.cluster_id,
            node_id: config.node_id,
            versions: config.versions,
            pin_dir: config.pin_dir.clone(),
            priority: config.engine.priority,
            cpus: config.engine.cpus.clone(),
            wait: config.engine.wait,
            adapter_name: config.adapter_name.clone(),
            adapter: seed.adapter(),
            detector: config.detector(),
            datapath: config.datapath,
            left_addresses: super::vips::left_addresses(&config),
            log_packets: config.log_packets,
        })
        .await?;
        let server = match Server::bind(&config.socket, config.group.as_deref(), asked) {
            Ok(server) => server,
            Err(error) => {
                // What an earlier daemon left goes on answering; a fresh start leaves nothing.
                let fresh = engine.adopted_slots().is_empty();
                engine.stop(if fresh { StopMode::Clean } else { StopMode::Keep }).await?;
                return Err(error.into());
            }
        };
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let key = keys::Secret::new(secret.bytes())?;
        let mut membership =
            Membership::new(config.membership(), key.clone(), engine.boot_nonce(), seed, random);
        let adopted = engine.adopted_slots();
        let started_ns = crate::sys::boottime();
        membership.adopt(started_ns, &adopted);
        if let Some(next) = next_secret {
            membership.resume_rotation(next);
        }
        engine.configure(config.detector());
        let names = super::Names::load(&config.state_dir);
        let record = super::Record::new(config.event_history, config.route_history);
        let pressure = Pressure::new(engine.detection_tid(), engine.cpus());
        let watchdog = sd_notify::watchdog_enabled().map(|limit| {
            let every = limit / 2;
            Watchdog { every, next: Instant::now() + every, loops: 0 }
        });
        let mut daemon = Self {
            config,
            membership,
            engine,
            monitor,
            server,
            _lock: lock,
            record,
            pressure,
            names,
            interfaces: Vec::new(),
            listed_ns: 0,
            neighbours_at: None,
            reports: Vec::new(),
            fence_reports: Vec::new(),
            ownership: None,
            secret: key,
            slots: BTreeMap::new(),
            node_states: BTreeMap::new(),
            active: BTreeMap::new(),
            started_ns,
            adopted_routes: adopted.len(),
            stopping: false,
            secret_failure: None,
            writing: None,
            watchdog,
        };
        daemon.announce();
        let _ = daemon.check_key_file();
        daemon.handle_interfaces(listing);
        // Somebody else's program on one interface must not keep the node out of the cluster: that is said, and the
        // others are used. On all of them, there is nothing to run for.
        let usable = daemon.reports.iter().any(|report| report.mode != XdpMode::None);
        if !usable && !daemon.reports.is_empty() && daemon.adopted_routes == 0 {
            let notes: Vec<&str> =
                daemon.reports.iter().filter_map(|report| report.note.as_deref()).collect();
            let notes = notes.join("\n");
            daemon.engine.stop(StopMode::Clean).await?;
            return Err(StartError::Interface(notes));
        }
        daemon.start_ownership();
        daemon.drain().await;
        Ok(daemon)
    }

    fn announce(&mut self) {
        use super::Note;
        let (name, id) = (self.config.node_name.clone(), self.config.node_id);
        let text = format!(
            "netftd {} started as node {name} (id {id}) of cluster {} (id {})",
            env!("CARGO_PKG_VERSION"),
            self.config.cluster_name,
            self.config.cluster_id
        );
        self.note(Note::Info, "daemon", &name, &text);
        for note in self.engine.notes() {
            self.note(Note::Warning, "engine", "engine", &note);
        }
    }
}

/// One daemon per state folder: held as long as the file is open.
fn lock(folder: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::State { folder: folder.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("netftd.lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// What the adapter's identity is made from: the hardware address of the interface that the kernel found first.
fn first_mac(interfaces: &[Interface], config: &Config) -> [u8; 6] {
    let first = interfaces.iter().filter(|i| i.mac != [0; 6]).min_by_key(|i| i.ifindex);
    // Without any interface there is nobody to be mistaken for: the node id will do.
    let [high, low] = config.node_id.get().to_be_bytes();
    first.map_or([0x02, 0, 0, 0, high, low], |interface| interface.mac)
}

/// Hardware address of an adapter that an earlier daemon left in our network namespace.
fn adapter_mac(name: &str) -> Option<[u8; 6]> {
    /// sizeof(struct ifinfomsg).
    const IFINFO: usize = 16;
    /// IFLA_ADDRESS, IFLA_IFNAME (include/uapi/linux/if_link.h).
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let request = rtnl::Request::new(rtnl::kind::GET_LINK, 0, &[0; IFINFO]).attribute(NAME, &text);
    let mut mac = None;
    let found = rtnl::Client::new().and_then(|mut client| {
        client.get(request, |message| {
            let mut attributes = rtnl::attributes(message.payload, IFINFO);
            let address = attributes.find(|(kind, _)| *kind == ADDRESS);
            mac = address.and_then(|(_, value)| <[u8; 6]>::try_from(value).ok());
        })
    });
    found.ok().and(mac)
}

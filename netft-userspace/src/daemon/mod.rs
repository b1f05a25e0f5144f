//! netftd: joins membership, engine, the kernel's interface list and the control socket on one thread.
//!
//! Every input is one mutation, then everything that follows from it is carried out (`Daemon::drain`) before the
//! next one is looked at, so listings never show a state that is half made.

mod names;
mod record;
mod reload;
mod rotate;
mod show;
mod start;
mod vips;

pub use start::check;

use crate::config::Config;
use crate::control::{Asked, Reply, Request, Server, ServerError, refusal};
use crate::engine::fence::FenceReport;
use crate::engine::{Engine, EngineInput, InterfaceReport, StopMode};
use crate::listing::{Changed, Versioned};
use crate::netlink::{self, Listing, Monitor};
use crate::ownership::{Done, Ownership, Told};
use crate::pressure::Pressure;
use anyhow::Context;
use names::Names;
use netft_core::detect::DetectorEvent;
use netft_core::keys;
use netft_core::membership::{Interface, Membership, MembershipCommand, MembershipEvent, Role, RouteInfo};
use netft_core::types::{LinkState, Nanos, NodeId, NodeState, Slot};
use record::{Note, Record, RouteName};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Requests that may wait for the loop.
const REQUESTS_WAITING: usize = 16;
/// How long a goodbye may travel before everything is taken down: legs say it as well as hellos.
const GOODBYE: Duration = Duration::from_millis(50);
/// How often neighbour entries are looked after while routes are down.
const NEIGHBOURS_EVERY: Duration = Duration::from_millis(250);
/// Inputs that are taken between two looks at everything else.
const INPUTS_PER_DRAIN: usize = 64;
/// The longest sleep of the loop.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Runs until SIGTERM or SIGINT; then says goodbye and leaves nothing behind.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
    };
    let (asked, mut requests) = mpsc::channel(REQUESTS_WAITING);
    let mut daemon = Daemon::start(config, asked).await?;
    notify(&[sd_notify::NotifyState::Ready]);
    daemon.serve(&mut signals, &mut requests).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    drop(requests);
    daemon.stop().await
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Tells systemd, if it started us.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// The whole daemon.
struct Daemon {
    config: Config,
    membership: Membership,
    engine: Engine,
    monitor: Monitor,
    /// Removes the socket's file when dropped.
    server: Server,
    /// Held while we live: one daemon per state folder.
    _lock: std::fs::File,
    record: Record,
    pressure: Pressure,
    names: Names,
    interfaces: Vec<Interface>,
    /// When the kernel listed them.
    listed_ns: Nanos,
    /// When to look after the neighbour entries of routes that are down.
    neighbours_at: Option<Instant>,
    reports: Vec<InterfaceReport>,
    /// Where VIPs may be.
    fence_reports: Vec<FenceReport>,
    /// While the configuration has VIPs.
    ownership: Option<Ownership>,
    secret: keys::Secret,
    /// What a slot is; kept a little longer than membership does, for the events of its removal.
    slots: BTreeMap<Slot, RouteName>,
    node_states: BTreeMap<NodeId, PeerState>,
    active: BTreeMap<NodeId, Slot>,
    started_ns: Nanos,
    adopted_routes: usize,
    stopping: bool,
    /// Why secrets couldn't be written, since the last that could.
    secret_failure: Option<String>,
    /// Secrets on their way to the disk.
    writing: Option<rotate::Writing>,
    watchdog: Option<Watchdog>,
}

/// A peer's state and since when it has it.
#[derive(Clone, Copy)]
struct PeerState {
    state: NodeState,
    since_ns: Nanos,
}

struct Watchdog {
    every: Duration,
    next: Instant,
    /// The engine's loops at the last look: if they stand still, systemd isn't told that all is well.
    loops: u64,
}

/// Nothing, while there is no ownership.
async fn ownership_event(ownership: &mut Option<Ownership>) -> Told {
    match ownership {
        Some(ownership) => ownership.event().await,
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Serves until a signal ends it.
    async fn serve(&mut self, signals: &mut Signals, requests: &mut mpsc::Receiver<Asked>) {
        loop {
            // However much comes in, timers have their turn.
            self.handle_timeout();
            self.drain().await;
            let sleep = self.sleep();
            tokio::select! {
                input = self.engine.recv() => self.handle_input(input).await,
                listing = self.monitor.next() => match listing {
                    Ok(listing) => self.handle_interfaces(listing),
                    Err(error) => {
                        let text = format!("{error}; what is known stays in force, and is listed again every 2 s");
                        self.note(Note::Warning, "daemon", "netlink", &text);
                    }
                },
                Some(asked) = requests.recv() => self.answer(asked).await,
                kept = rotate::written(&mut self.writing) => self.secret_kept(kept),
                told = ownership_event(&mut self.ownership) => self.handle_told(told),
                () = tokio::time::sleep(sleep) => {}
                _ = signals.hangup.recv() => {
                    if let Err(error) = self.reload(reload::Mode::Apply).await {
                        self.note(Note::Warning, "config", "reload", &error);
                    }
                }
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
            }
        }
    }

    /// Until something of our own is due.
    fn sleep(&self) -> Duration {
        let due = Duration::from_nanos(self.membership.poll_timeout().saturating_sub(crate::sys::boottime()));
        let watchdog = self.watchdog.as_ref().map(|w| w.next.saturating_duration_since(Instant::now()));
        let neighbours = self.neighbours_at.map(|at| at.saturating_duration_since(Instant::now()));
        [watchdog, neighbours].into_iter().flatten().fold(due.min(LONGEST_SLEEP), Duration::min)
    }

    fn handle_timeout(&mut self) {
        let now = crate::sys::boottime();
        if self.membership.poll_timeout() <= now {
            self.membership.handle_timeout(now);
        }
        if self.neighbours_at.is_some_and(|at| at <= Instant::now()) {
            let again = self.engine.keep_neighbours();
            self.neighbours_at = again.then(|| Instant::now() + NEIGHBOURS_EVERY);
        }
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.next <= Instant::now()
        {
            watchdog.next = Instant::now() + watchdog.every;
            let loops = self.engine.stats().loops;
            if loops != watchdog.loops {
                watchdog.loops = loops;
                notify(&[sd_notify::NotifyState::Watchdog]);
            } else {
                tracing::error!(
                    loops,
                    "the detection thread stands still: systemd's watchdog will restart netftd"
                );
            }
        }
    }

    /// Carries out everything that follows from the last mutation, and takes in what came meanwhile: some of it, since
    /// signals and requests wait.
    async fn drain(&mut self) {
        for _ in 0..INPUTS_PER_DRAIN {
            self.follow_up().await;
            match self.engine.try_recv() {
                Some(input) => self.handle_input(input).await,
                None => return,
            }
        }
        // Nothing is left half made, also when there is more to take in.
        self.follow_up().await;
    }

    /// Carries out everything that follows from the last mutation.
    async fn follow_up(&mut self) {
        let mut something = false;
        while let Some(command) = self.membership.poll_command() {
            self.carry_out(command).await;
            something = true;
        }
        while let Some(hello) = self.membership.poll_transmit() {
            if let Err(error) = self.engine.send_hello(&hello) {
                tracing::debug!(%error, local = %hello.local, remote = %hello.remote, "hello not sent");
            }
        }
        while let Some(event) = self.membership.poll_event() {
            self.record.membership(&event);
            something = true;
            if let MembershipEvent::PeerJoined { peer, id, .. } = &event
                && let Err(error) = self.names.learn(*id, peer)
            {
                self.note(Note::Warning, "daemon", "state", &error.to_string());
            }
        }
        if something {
            self.tell_surroundings();
        }
    }

    async fn carry_out(&mut self, command: MembershipCommand) {
        let result = match command {
            MembershipCommand::SetRoute(route) => {
                if let Some(info) = self.membership.route(route.slot) {
                    let peer = self.name_of(&info);
                    self.slots.insert(route.slot, RouteName { peer, local: info.local, remote: info.remote });
                }
                self.neighbours_at.get_or_insert_with(Instant::now);
                self.engine.set_route(&route).await
            }
            MembershipCommand::RemoveRoute(slot) => {
                self.engine.remove_route(slot).await;
                Ok(())
            }
            MembershipCommand::SetSession(peer, keys) => {
                self.engine.set_session(peer, &keys);
                Ok(())
            }
            MembershipCommand::RemoveSession(peer) => {
                self.engine.remove_session(peer);
                Ok(())
            }
            MembershipCommand::SetPeerAdapter(peer, adapter) => {
                self.engine.set_peer_adapter(peer, adapter).await
            }
            MembershipCommand::RemovePeerAdapter(peer) => {
                self.engine.remove_peer_adapter(peer).await;
                Ok(())
            }
            MembershipCommand::SetOwnAdapter(adapter) => self.engine.set_adapter(adapter).await,
            MembershipCommand::KeepSecret(keep) => {
                self.keep_secret(keep);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.note(Note::Warning, "engine", "engine", &error.to_string());
        }
    }

    async fn handle_input(&mut self, input: EngineInput) {
        match input {
            EngineInput::Hello { local, remote, bytes } => {
                let now = crate::sys::boottime();
                if let Err(reject) = self.membership.handle_frame(now, local, remote, &bytes) {
                    tracing::debug!(%local, %remote, %reject, "hello or handshake rejected");
                }
            }
            EngineInput::Detector(event) => self.handle_detector(event),
            EngineInput::Note(text) => self.note(Note::Warning, "engine", "engine", &text),
            EngineInput::Told(text) => self.note(Note::Info, "engine", "engine", &text),
            EngineInput::Turn => self.introduce_interfaces(),
        }
    }

    fn handle_detector(&mut self, event: DetectorEvent) {
        match event {
            DetectorEvent::Route(record) => {
                let name = self.slots.get(&record.slot).cloned();
                self.record.route(name, &record);
                self.neighbours_at.get_or_insert_with(Instant::now);
                self.membership.handle_route(record.at_ns, record.slot, record.new);
            }
            DetectorEvent::Active { at_ns, peer, old, new } => {
                match new {
                    Some(slot) => self.active.insert(peer, slot),
                    None => self.active.remove(&peer),
                };
                let name = |slot: Option<Slot>| slot.map(|slot| self.route_name(slot));
                self.record.active(at_ns, &self.peer_name(peer), name(old), name(new));
            }
            DetectorEvent::Peer { at_ns, peer, old, new, tick_age_ns } => {
                self.membership.handle_peer(at_ns, peer, new);
                if let Some(ownership) = &self.ownership {
                    ownership.peer(peer, new);
                }
                self.node_states.insert(peer, PeerState { state: new, since_ns: at_ns });
                self.record.node(at_ns, &self.peer_name(peer), old, new, tick_age_ns);
            }
            DetectorEvent::Stall { at_ns, gap_ns } => {
                self.record.stall(at_ns, gap_ns, || self.pressure.lately());
            }
        }
    }

    fn handle_interfaces(&mut self, listing: Listing) {
        let Listing { interfaces, changed, at_ns } = listing;
        self.listed_ns = at_ns;
        self.engine.sweep_adapter();
        for peer in self.engine.worn_sessions() {
            self.membership.renew(at_ns, peer);
        }
        if !changed {
            // An interface without addresses may be new.
            self.fence_interfaces();
            self.tell_surroundings();
            // What kept an interface from being used may be gone.
            match self.reports.iter().all(|report| report.complete) {
                true => self.engine.confirm_links(at_ns),
                false => self.introduce_interfaces(),
            }
            return;
        }
        for interface in &interfaces {
            let old =
                self.interfaces.iter().find(|known| known.name == interface.name).map(|known| known.link);
            if old != Some(interface.link) {
                self.record.interface(&interface.name, old, Some(interface.link));
            }
        }
        for gone in self.interfaces.iter().filter(|known| interfaces.iter().all(|i| i.name != known.name)) {
            self.record.interface(&gone.name, Some(gone.link), None);
        }
        self.interfaces = interfaces;
        self.introduce_interfaces();
    }

    /// Tells membership what there is and how the configured addresses are reached, and the engine what to use of it.
    fn introduce_interfaces(&mut self) {
        let sources =
            netlink::local_sources(self.config.peers.values().flat_map(|peer| peer.addresses.clone()));
        self.membership.handle_interfaces(crate::sys::boottime(), self.interfaces.clone(), &sources);
        let used: Vec<Interface> =
            self.interfaces.iter().filter(|i| self.is_used(&i.name)).cloned().collect();
        let reports = self.engine.set_interfaces(&used, self.listed_ns);
        for report in &reports {
            if let Some(note) = report.note.as_ref().filter(|_| !self.reports.contains(report)) {
                self.record.note(Note::Warning, "interface", &report.name, note);
            }
        }
        self.reports = reports;
        self.neighbours_at = Some(Instant::now());
        self.fence_interfaces();
        self.tell_surroundings();
    }

    /// Role 0 keeps netft off an interface altogether: no program, no socket.
    fn is_used(&self, interface: &str) -> bool {
        let networks = self.membership.networks();
        let mut its =
            networks.iter().filter(|network| network.interfaces.iter().any(|name| name == interface));
        its.clone().next().is_none() || its.any(|network| network.role != Role::None)
    }

    async fn answer(&mut self, asked: Asked) {
        let Asked { request, reply } = asked;
        let mut follow_on = None;
        let answer = match request {
            Request::Status => line(self.status()),
            Request::Nodes => line(self.nodes()),
            Request::Networks => line(self.networks()),
            Request::Routes { history, only } => line(self.routes(history, only.as_deref())),
            Request::Events { since_unix_ns, follow } => {
                follow_on = follow.then(|| self.record.subscribe());
                line(self.record.since(since_unix_ns, follow))
            }
            Request::Vips => line(self.vips()),
            Request::MoveVip { vip, node } => {
                return self.change_vip(reply, |own, done| own.move_vip(vip, node, done));
            }
            Request::RemoveVip { vip } => {
                return self.change_vip(reply, |own, done| own.remove_vip(vip, done));
            }
            Request::Config => line(self.config_show()),
            Request::Reload { dry_run } => {
                let mode = if dry_run { reload::Mode::DryRun } else { reload::Mode::Apply };
                match self.reload(mode).await {
                    Ok(document) => line(document),
                    Err(error) => refusal(&error),
                }
            }
            Request::RotateKey { abort } => {
                let wish = if abort { rotate::Wish::Abort } else { rotate::Wish::Start };
                match self.rotate_key(wish).await {
                    Ok(document) => line(document),
                    Err(error) => refusal(&error),
                }
            }
        };
        // Whoever asked may have gone: then nobody needs the answer.
        let _ = reply.send((answer, follow_on));
    }

    /// Has ownership do something, and whoever asked wait for it; nobody else does.
    fn change_vip(&self, reply: Reply, ask: impl FnOnce(&Ownership, oneshot::Sender<Done>)) {
        let Some(ownership) = &self.ownership else {
            let _ = reply.send((refusal("this node takes no part in VIPs: none is configured"), None));
            return;
        };
        let (done, waiting) = oneshot::channel();
        ask(ownership, done);
        tokio::spawn(async move {
            let answer = match waiting.await {
                Ok(Ok(text)) => line(Changed { done: text }),
                Ok(Err(why)) => refusal(&why),
                Err(_) => refusal("netftd is stopping"),
            };
            let _ = reply.send((answer, None));
        });
    }

    fn note(&mut self, level: Note, kind: &str, subject: &str, text: &str) {
        self.record.note(level, kind, subject, text);
    }

    fn peer_name(&self, id: NodeId) -> String {
        let peers = self.membership.peers();
        let known = peers.into_iter().find(|peer| peer.id == Some(id)).map(|peer| peer.name);
        known.or_else(|| self.names.get(id)).unwrap_or_else(|| format!("node {id}"))
    }

    /// The peer of a route: after a restart its routes are known before it has said its name again.
    fn name_of(&self, info: &RouteInfo) -> String {
        let configured = self.config.peers.contains_key(&info.peer);
        let learned = || info.id.and_then(|id| self.names.get(id));
        Some(&info.peer).filter(|_| configured).cloned().or_else(learned).unwrap_or_else(|| info.peer.clone())
    }

    fn route_name(&self, slot: Slot) -> String {
        self.slots.get(&slot).map_or_else(|| format!("slot {}", slot.get()), |name| name.pair())
    }

    /// A clean stop: goodbye first, then everything is taken away.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.stopping = true;
        self.note(
            Note::Info,
            "daemon",
            &self.config.node_name.clone(),
            "stops cleanly: goodbye to the peers",
        );
        self.hand_over().await;
        self.membership.leave(crate::sys::boottime());
        self.drain().await;
        tokio::time::sleep(GOODBYE).await;
        self.drain().await;
        // The next daemon must not read what this one still writes.
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        self.stop_ownership();
        drop(self.server);
        self.engine.stop(StopMode::Clean).await.context("not everything could be removed")?;
        tracing::info!("stopped; nothing is left behind");
        Ok(())
    }
}

/// A document as one line.
fn line(document: impl Serialize) -> String {
    serde_json::to_string(&Versioned::new(document)).unwrap_or_else(|error| refusal(&error.to_string()))
}

/// Link states as events name them.
fn link_word(link: LinkState) -> &'static str {
    match link {
        LinkState::Up => "up",
        LinkState::NoCarrier => "no-carrier",
        LinkState::AdminDown => "admin-down",
    }
}

impl From<ServerError> for start::StartError {
    fn from(error: ServerError) -> Self {
        Self::Socket(error)
    }
}

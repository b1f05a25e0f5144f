//! The interfaces: their programs, sockets and links.

use super::turns::{self, Seen};
use super::xsk::Turn;
use super::{Engine, EngineError, InterfaceReport, XdpMode, data, detection, now};
use crate::sys;
use crate::sys::bpf::AttachMode;
use netft_common::wire;
use netft_core::detect::DetectorCommand;
use netft_core::membership::{Interface, RouteInstall};
use netft_core::types::{InterfaceNumber, LinkState, Nanos, NodeId, RouteState, Slot, address_bytes};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Engine {
    /// These are all usable interfaces now: attaches XDP, opens and closes sockets, tells the detector about links.
    /// Interfaces that vanished lose their program. Idempotent. One report for each interface. `at_ns` is when the kernel
    /// listed them. [`super::EngineInput::Turn`] asks for another call.
    pub fn set_interfaces(&mut self, interfaces: &[Interface], at_ns: Nanos) -> Vec<InterfaceReport> {
        let waited = self.turns.ask_again();
        let (mut reports, turns): (Vec<InterfaceReport>, Vec<Turn>) =
            interfaces.iter().map(|interface| self.attach(interface, &waited)).unzip();
        let usable: Vec<(&Interface, XdpMode, Turn)> = interfaces
            .iter()
            .zip(&reports)
            .zip(turns)
            .filter(|((_, report), _)| report.mode != XdpMode::None)
            .map(|((interface, report), turn)| (interface, report.mode, turn))
            .collect();
        self.bypass.update(&usable, &mut self.data);
        let usable: Vec<&Interface> = usable.into_iter().map(|(interface, ..)| interface).collect();

        let addresses = usable.iter().flat_map(|interface| &interface.addresses);
        let addresses: Vec<[u8; 16]> = addresses.map(|(address, _)| address_bytes(*address)).collect();
        if let Err(error) = self.loaded.set_local(&addresses) {
            self.note(format!("XDP can't be told this node's addresses: {error}"));
        }
        let macs: Vec<[u8; 6]> = usable.iter().map(|interface| interface.mac).collect();
        if let Err(error) = self.loaded.set_macs(&macs) {
            self.note(format!("the fence can't be told this node's hardware addresses: {error}"));
        }
        let changes = self.sockets.update(usable.iter().copied());
        for local in changes.closed {
            self.data.remove_socket(local);
        }
        for local in &changes.opened {
            if let Some(endpoint) = self.sockets.get(*local) {
                let socket = Arc::clone(&endpoint.data);
                self.data.add_socket(data::Socket { local: *local, socket });
            }
        }
        for (address, name, error) in changes.failed {
            let why = format!(
                "{name}: no socket for {address}: {error}; is another program using UDP port {}?",
                wire::PORT
            );
            if let Some(report) = reports.iter_mut().find(|report| report.name == name) {
                report.note = Some(report.note.take().map_or(why.clone(), |note| format!("{note}; {why}")));
                report.complete = false;
            }
        }
        self.tell_links(&usable, at_ns);
        let macs = usable.iter().map(|interface| (interface.number, interface.mac)).collect();
        let moved = std::mem::replace(&mut self.macs, macs) != self.macs;
        let all: Vec<IpAddr> = if moved {
            usable
                .iter()
                .flat_map(|interface| interface.addresses.iter().map(|(address, _)| *address))
                .collect()
        } else {
            changes.opened
        };
        self.reinstall(&all);
        for ifindex in self.attachments.interfaces() {
            if !interfaces.iter().any(|interface| interface.ifindex == ifindex)
                && let Err(error) = self.attachments.detach(&self.folder, ifindex)
            {
                self.note(EngineError::Detach { ifindex, error }.to_string());
            }
        }
        reports
    }

    /// Sees to it that there are data threads for so many sockets of one interface, at most one per CPU.
    pub(super) fn add_data_threads(&mut self, sockets: usize) {
        let wanted = sockets.min(sys::allowed_cpus().len());
        while self.data.threads() < wanted {
            let queue = match self.adapter.add_queue() {
                Ok(queue) => queue,
                Err(error) => {
                    return self.note(format!("{error}; {} data threads it is", self.data.threads()));
                }
            };
            if let Err(error) = self.data.add_thread(queue) {
                // Nobody would read it.
                self.adapter.remove_queue();
                return self.note(EngineError::Threads(error).to_string());
            }
            self.detection.send(detection::Command::Wake(self.data.newest_wake()));
        }
    }

    /// Attaches the program as wished. Where it is attached in another way, that may have to wait for its turn: then it stays
    /// as it is.
    fn attach(
        &mut self,
        interface: &Interface,
        waited: &BTreeMap<InterfaceNumber, Nanos>,
    ) -> (InterfaceReport, Turn) {
        let wish = if self.bypass.wants_generic() { AttachMode::Generic } else { AttachMode::Native };
        let (number, ifindex, name) = (interface.number, interface.ifindex, &interface.name);
        let mut turn = Turn::Done;
        if self.attachments.is_attached_otherwise(ifindex, wish) {
            let now = now();
            let since_ns = waited.get(&number).copied().unwrap_or(now);
            let routes = self.seen_routes();
            if self.turns.may(number, since_ns, now, routes.as_deref()) {
                // Only one of both is possible at a time, and sockets are of one of both.
                self.bypass.release(number, &mut self.data);
                if let Err(error) = self.attachments.detach(&self.folder, ifindex) {
                    self.note(EngineError::Detach { ifindex, error }.to_string());
                }
                self.turns.take(number, now, &routes.unwrap_or_default());
            } else {
                self.turns.wait(number, since_ns);
                turn = Turn::Awaited;
            }
        }
        let program = self.loaded.program().map_err(|error| error.to_string());
        let attached = program.and_then(|program| {
            let attached = self.attachments.attach(&self.folder, program, ifindex, name, wish);
            attached.map_err(|error| error.to_string())
        });
        let (mode, note) = attached.unwrap_or_else(|error| (XdpMode::None, Some(error)));
        let complete = mode != XdpMode::None && turn == Turn::Done;
        (InterfaceReport { name: name.clone(), mode, note, complete }, turn)
    }

    /// All routes as they are now; `None` while those of an earlier daemon aren't confirmed.
    fn seen_routes(&self) -> Option<Vec<Seen>> {
        let views = self.route_views();
        let seen = |(slot, route): (&Slot, &RouteInstall)| {
            let view = views.iter().find(|view| view.slot == *slot);
            let state = self.loaded.shared.states.get(slot.index());
            let [completed, confirmed] = [&state.completed_sent_ns, &state.confirmed_sent_ns];
            let timing = route.timing;
            Some(Seen {
                slot: *slot,
                peer: NodeId::new(route.config.peer)?,
                interface: u8::try_from(route.config.interface).ok().and_then(InterfaceNumber::new)?,
                up_since_ns: view.filter(|view| view.state == RouteState::Up).map(|view| view.since_ns),
                proof_ns: completed.load(Ordering::Relaxed).max(confirmed.load(Ordering::Relaxed)),
                patience_ns: timing.delay_ns.saturating_mul(timing.threshold.into()),
            })
        };
        self.adopted.is_empty().then(|| self.routes.iter().filter_map(seen).collect())
    }

    /// Whether [`Self::set_interfaces`] should be called again, as an interface's turn has come.
    pub(super) fn is_turn(&mut self, now: Nanos) -> bool {
        if !self.turns.is_waited_for() || now < self.looks_ns {
            return false;
        }
        self.looks_ns = now + turns::LOOK_NS;
        self.turns.is_due(now, self.seen_routes().as_deref())
    }

    fn tell_links(&mut self, usable: &[&Interface], at_ns: Nanos) {
        let mut gone = std::mem::take(&mut self.interfaces);
        for interface in usable {
            gone.remove(&interface.number);
            self.interfaces.insert(interface.number, (interface.ifindex, interface.link));
        }
        self.confirm_links(at_ns);
        for number in gone.into_keys() {
            let down = DetectorCommand::SetLink(number, LinkState::AdminDown);
            self.detection.send(detection::Command::Detector(down));
            self.detection.send(detection::Command::RemoveInterface(number));
        }
    }

    /// The interfaces of the last [`Engine::set_interfaces`] were listed again, at `at_ns`, and are the same: tells the
    /// detection thread, which may have lost a notification.
    pub fn confirm_links(&mut self, at_ns: Nanos) {
        for (number, (ifindex, link)) in &self.interfaces {
            self.detection.send(detection::Command::SetInterface(*number, *ifindex, *link, at_ns));
        }
    }
}

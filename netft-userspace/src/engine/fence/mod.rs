//! The fence at interfaces: TC programs that drop what this node may not say for a VIP, held by pinned links, so that a
//! daemon that dies leaves them. They close by themselves when nobody ticks or vouches; `docs/ownership.md` has the rules.
//!
//! Without VIPs nothing is loaded or attached. Whoever adds a VIP's address to an interface calls [`super::Engine::set_fenced`]
//! before, and takes the address away before it takes the fence away.

mod clsact;
mod words;

pub use words::FenceWords;

use super::maps::{MapsError, load_programs, refusal};
use crate::netlink::IFINFO;
use crate::rtnl::{self, Client, Request, kind};
use crate::sys::bpf::{self, TcSide};
use aya::Ebpf;
use aya::programs::{Program, SchedClassifier};
use netft_common::fence::{VipEntry, vip_flags};
use netft_core::ownership::VipId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// An interface whose traffic is to pass the fence: each one that carries a VIP's traffic, `lo` among them, the ports of a
/// bond, and what lies on top of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedInterface {
    /// Kernel index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
}

/// What became of a [`FencedInterface`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FenceReport {
    /// Its name.
    pub name: String,
    /// Every frame passes the fence. If not, no VIP may be on this interface.
    pub fenced: bool,
    /// One sentence about a fallback or an error; `None` = all as wished.
    pub note: Option<String>,
}

/// In maps that are new, addresses that an earlier daemon may have left on interfaces are fenced, too, before anything goes by
/// them; nobody owns them there.
pub(super) fn keep_closed(pin_dir: &Path, addresses: &[(VipId, IpAddr)]) -> Result<(), MapsError> {
    if addresses.is_empty() {
        return Ok(());
    }
    let mut words = FenceWords::open(pin_dir)?;
    for (vip, address) in
        addresses.iter().filter(|(_, address)| !words.has_address(*address)).collect::<Vec<_>>()
    {
        let entry = VipEntry { vip: vip.get().into(), flags: vip_flags::INSTALLED };
        let set = words.set_address(*address, entry);
        set.map_err(|error| MapsError::Folder { path: pin_dir.to_path_buf(), error })?;
    }
    Ok(())
}

/// How a program is held at an interface.
#[derive(Debug)]
enum Hold {
    /// By a pinned link (Linux 6.6 and newer).
    Link,
    /// As a filter of the interface's clsact qdisc, which stays by itself.
    Filter(String),
}

/// The fence's programs, and where they are.
#[derive(Debug)]
pub struct Fence {
    pin_dir: PathBuf,
    programs: Option<Ebpf>,
    held: BTreeMap<(u32, TcSide), Hold>,
    client: Client,
    tcx: bool,
}

impl Fence {
    /// Takes over what is pinned in `pin_dir`, with new programs; the maps must be pinned there already. A sentence for each
    /// link that couldn't be taken over.
    ///
    /// # Errors
    /// The programs can't be loaded, although links of them are pinned.
    pub fn adopt(pin_dir: &Path) -> Result<(Self, Vec<String>), MapsError> {
        let client =
            Client::new().map_err(|error| MapsError::Folder { path: pin_dir.to_path_buf(), error })?;
        let mut this =
            Self { pin_dir: pin_dir.to_path_buf(), programs: None, held: BTreeMap::new(), client, tcx: true };
        let mut notes = Vec::new();
        let entries = std::fs::read_dir(pin_dir).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for (name, (ifindex, side)) in names.iter().filter_map(|name| Some((name, parse_pin(name)?))) {
            let link = bpf::open_pin(&pin_dir.join(name))
                .and_then(|link| Ok((bpf::tcx_link_ifindex(link.as_fd())?, link)));
            match link {
                Ok((attached, link)) if attached == ifindex => {
                    let updated = bpf::update_link(link.as_fd(), this.program(side)?.fd_of()?);
                    if let Err(error) = updated {
                        // The program in it goes by the same words, or by older ones, that stay closed.
                        notes.push(format!(
                            "interface {ifindex}: the program of the pinned fence can't be replaced: {error}"
                        ));
                    }
                    this.held.insert((ifindex, side), Hold::Link);
                }
                // The interface is gone, perhaps its whole namespace.
                Ok(_) => this.unpin(name, &mut notes),
                Err(error) => {
                    notes.push(format!("the pin {name} can't be opened ({error}); removing it"));
                    this.unpin(name, &mut notes);
                }
            }
        }
        Ok((this, notes))
    }

    /// Fences exactly these interfaces; those in `without_xdp` also on the way in. Idempotent. One report for each.
    pub fn set(&mut self, interfaces: &[FencedInterface], without_xdp: &BTreeSet<u32>) -> Vec<FenceReport> {
        let wanted: BTreeSet<(u32, TcSide)> = interfaces
            .iter()
            .flat_map(|interface| {
                let inward =
                    without_xdp.contains(&interface.ifindex).then_some((interface.ifindex, TcSide::In));
                [Some((interface.ifindex, TcSide::Out)), inward].into_iter().flatten()
            })
            .collect();
        let reports = interfaces
            .iter()
            .map(|interface| {
                let sides = [TcSide::In, TcSide::Out]
                    .into_iter()
                    .filter(|side| wanted.contains(&(interface.ifindex, *side)));
                let results: Result<Vec<()>, String> =
                    sides.map(|side| self.attach(interface, side)).collect();
                FenceReport {
                    name: interface.name.clone(),
                    fenced: results.is_ok(),
                    note: results.err().map(|error| format!("{}: {error}", interface.name)),
                }
            })
            .collect();
        let superfluous: Vec<_> = self.held.keys().filter(|held| !wanted.contains(held)).copied().collect();
        for held in superfluous {
            // What can't be removed stays, and is closed or lets through as it did.
            let _ = self.detach(held);
        }
        reports
    }

    /// Takes the fence off every interface. Only when no VIP's address is on one any more.
    ///
    /// # Errors
    /// The last failure.
    pub fn remove(&mut self) -> io::Result<()> {
        let held: Vec<_> = self.held.keys().copied().collect();
        held.into_iter().map(|held| self.detach(held)).fold(Ok(()), io::Result::and)
    }

    /// From now on attaches as on a kernel before 6.6, which has no tcx.
    pub fn without_tcx(mut self) -> Self {
        self.tcx = false;
        self
    }

    /// Interfaces at which frames that leave pass the fence.
    pub fn interfaces(&self) -> Vec<u32> {
        self.held.keys().filter(|(_, side)| *side == TcSide::Out).map(|(ifindex, _)| *ifindex).collect()
    }

    fn attach(&mut self, interface: &FencedInterface, side: TcSide) -> Result<(), String> {
        let ifindex = interface.ifindex;
        if self.held.contains_key(&(ifindex, side)) {
            return Ok(());
        }
        const ARPHRD_ETHER: u16 = 1;
        const ARPHRD_LOOPBACK: u16 = 772;
        let hardware =
            self.hardware(ifindex).map_err(|error| format!("cannot look the interface up: {error}"))?;
        if ![ARPHRD_ETHER, ARPHRD_LOOPBACK].contains(&hardware) {
            return Err(format!(
                "not an Ethernet interface (hardware type {hardware}), so the fence can't tell what it sends: put no VIP on it"
            ));
        }
        let (tcx, pin) = (self.tcx, self.pin_dir.join(pin_name(ifindex, side)));
        let program = self.program(side).map_err(|error| error.to_string())?;
        let link = match tcx {
            true => program
                .fd_of()
                .map_err(io::Error::other)
                .and_then(|program| bpf::attach_tcx(program, ifindex, side)),
            false => Err(io::ErrorKind::Unsupported.into()),
        };
        let hold = match link {
            Ok(link) => {
                bpf::pin(link.as_fd(), &pin)
                    .map_err(|error| format!("the fence's link can't be pinned: {error}"))?;
                Hold::Link
            }
            Err(tcx) => {
                clsact::attach(program, &interface.name, side).map_err(|clsact| {
                    format!(
                        "the fence can't be attached by tcx ({tcx}) or clsact ({clsact}): put no VIP on it"
                    )
                })?;
                Hold::Filter(interface.name.clone())
            }
        };
        self.held.insert((ifindex, side), hold);
        Ok(())
    }

    fn detach(&mut self, (ifindex, side): (u32, TcSide)) -> io::Result<()> {
        match self.held.remove(&(ifindex, side)) {
            Some(Hold::Link) => std::fs::remove_file(self.pin_dir.join(pin_name(ifindex, side))),
            Some(Hold::Filter(name)) => clsact::detach(&name, side),
            None => Ok(()),
        }
    }

    fn unpin(&self, name: &str, notes: &mut Vec<String>) {
        if let Err(error) = std::fs::remove_file(self.pin_dir.join(name)) {
            notes.push(format!("the pin {name} can't be removed: {error}"));
        }
    }

    /// Loaded when it is wanted for the first time.
    fn program(&mut self, side: TcSide) -> Result<&mut SchedClassifier, MapsError> {
        let ebpf = match &mut self.programs {
            Some(ebpf) => ebpf,
            none => none.insert(load_programs(&self.pin_dir)?),
        };
        let name = match side {
            TcSide::In => "netft_in",
            TcSide::Out => "netft_out",
        };
        match ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => {
                if program.fd().is_err() {
                    program.load().map_err(|error| MapsError::Program(refusal(&error)))?;
                }
                Ok(program)
            }
            _ => Err(MapsError::Object(name)),
        }
    }

    fn hardware(&mut self, ifindex: u32) -> io::Result<u16> {
        let mut fixed = [0; IFINFO];
        fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let mut hardware = 0;
        self.client.get(Request::new(kind::GET_LINK, 0, &fixed), |link| {
            hardware = rtnl::u16_at(link.payload, 2);
        })?;
        Ok(hardware)
    }
}

/// The descriptor of a program that was loaded.
trait Descriptor {
    fn fd_of(&self) -> Result<std::os::fd::BorrowedFd<'_>, MapsError>;
}

impl Descriptor for SchedClassifier {
    fn fd_of(&self) -> Result<std::os::fd::BorrowedFd<'_>, MapsError> {
        Ok(self.fd().map_err(|_| MapsError::Object("netft_out"))?.as_fd())
    }
}

/// Pins of links, by interface. [`super::maps::PinFolder::clear`] leaves them: an address must not lose its fence.
const PINS: [(&str, TcSide); 2] = [("fence-out-", TcSide::Out), ("fence-in-", TcSide::In)];

fn pin_name(ifindex: u32, side: TcSide) -> String {
    let prefix = PINS.iter().find(|(_, of)| *of == side).map_or("", |(prefix, _)| prefix);
    format!("{prefix}{ifindex}")
}

/// Interface and side of a pin; `None` if it isn't one of the fence's.
pub(super) fn parse_pin(entry: &str) -> Option<(u32, TcSide)> {
    PINS.into_iter().find_map(|(prefix, side)| Some((entry.strip_prefix(prefix)?.parse().ok()?, side)))
}

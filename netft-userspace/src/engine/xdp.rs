//! The XDP program on interfaces: attached by pinned links, so that it outlives the daemon, and replaced, never
//! detached and attached again, by the next one (some drivers reset the link on detaching).

use super::XdpMode;
use super::maps::PinFolder;
use crate::rtnl::{self, Client, Request, attributes, kind, u32_at};
use crate::sys::bpf::{self, AttachMode};
use crate::sys::device::driver_name;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why an interface has no XDP program of ours.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The interface isn't there (any more).
    #[error("{name}: cannot look the interface up: {error}")]
    Lookup {
        /// The interface.
        name: String,
        /// As the kernel put it.
        error: io::Error,
    },
    /// Not Ethernet.
    #[error(
        "{name}: not an Ethernet interface (hardware type {hardware}); netft can't use it, exclude it by a network with role 0"
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// ARPHRD_*.
        hardware: u16,
    },
    /// Somebody else's program.
    #[error(
        "{name}: another XDP program is attached (id {id}, `{program}`); remove it (`ip link set dev {name} xdp off`), or exclude the interface by a network with role 0"
    )]
    Foreign {
        /// The interface.
        name: String,
        /// Program id.
        id: u32,
        /// Program name.
        program: String,
    },
    /// Neither native nor generic.
    #[error(
        "{name}: XDP can't be attached, native ({native}) or generic ({generic}); the kernel needs CONFIG_BPF_SYSCALL and CONFIG_NET"
    )]
    Refused {
        /// The interface.
        name: String,
        /// Why not native.
        native: io::Error,
        /// Why not generic.
        generic: io::Error,
    },
    /// Attached, but not pinned.
    #[error("{name}: the XDP link can't be pinned: {error}")]
    Pin {
        /// The interface.
        name: String,
        /// Why.
        error: io::Error,
    },
}

/// One interface with our program.
#[derive(Debug)]
struct Attached {
    link: OwnedFd,
    wish: AttachMode,
    mode: XdpMode,
    note: Option<String>,
}

/// All interfaces with our program.
#[derive(Debug)]
pub struct Attachments {
    client: Client,
    attached: BTreeMap<u32, Attached>,
}

impl Attachments {
    /// Takes over the links pinned in `folder`: puts `program` in. Pins whose interface is gone, or that don't take the
    /// program, are removed. Returns a sentence for each of the latter.
    pub fn adopt(folder: &PinFolder, program: BorrowedFd<'_>) -> io::Result<(Self, Vec<String>)> {
        let mut this = Self { client: Client::new()?, attached: BTreeMap::new() };
        let own_id = bpf::program_id(program)?;
        let mut notes = Vec::new();
        for entry in folder.entries() {
            let Some((ifindex, wish)) = parse_pin(&entry) else {
                continue;
            };
            let link = bpf::open_pin(&folder.path().join(&entry))
                .and_then(|link| Ok((bpf::link_ifindex(link.as_fd())?, link)));
            match link {
                Ok((attached, link)) if attached == ifindex => match bpf::update_link(link.as_fd(), program) {
                    // An equal number in another network namespace isn't our interface.
                    Ok(()) => {
                        if let Ok(state) = this.query(ifindex)
                            && state.program == own_id
                        {
                            this.attached.insert(ifindex, Attached { link, wish, mode: state.mode, note: None });
                            continue;
                        }
                    }
                    Err(error) => notes.push(format!(
                        "interface {ifindex}: the program of the pinned XDP link can't be replaced ({error}); attaching anew"
                    )),
                },
                // The interface is gone, perhaps its whole namespace.
                Ok(_) => {}
                Err(error) => notes.push(format!("the pin {entry} can't be opened ({error}); removing it")),
            }
            folder.unpin(&entry)?;
        }
        Ok((this, notes))
    }

    /// Whether the program is attached to an interface, but by another wish than this one.
    pub fn is_attached_otherwise(&self, ifindex: u32, wish: AttachMode) -> bool {
        self.attached.get(&ifindex).is_some_and(|attached| attached.wish != wish)
    }

    /// Attaches `program` to an interface unless it is: as wished, generic as fallback. How, and a sentence about
    /// a fallback.
    pub fn attach(
        &mut self,
        folder: &PinFolder,
        program: BorrowedFd<'_>,
        ifindex: u32,
        name: &str,
        wish: AttachMode,
    ) -> Result<(XdpMode, Option<String>), XdpError> {
        if let Some(attached) = self.attached.get(&ifindex) {
            return Ok((attached.mode, attached.note.clone()));
        }
        let state = self.query(ifindex).map_err(|error| XdpError::Lookup { name: name.to_owned(), error })?;
        const ARPHRD_ETHER: u16 = 1;
        if state.hardware != ARPHRD_ETHER {
            return Err(XdpError::NotEthernet { name: name.to_owned(), hardware: state.hardware });
        }
        if state.program != 0 {
            let program = bpf::program_name(state.program).unwrap_or_else(|_| "unknown".to_owned());
            return Err(XdpError::Foreign { name: name.to_owned(), id: state.program, program });
        }
        let (link, mode, note) = match bpf::attach_xdp(program, ifindex, wish) {
            Ok(link) if wish == AttachMode::Native => (link, XdpMode::Native, None),
            Ok(link) => (link, XdpMode::Generic, None),
            Err(native) => match bpf::attach_xdp(program, ifindex, AttachMode::Generic) {
                Ok(link) => (link, XdpMode::Generic, Some(fallback_note(name, &native))),
                Err(generic) => return Err(XdpError::Refused { name: name.to_owned(), native, generic }),
            },
        };
        bpf::pin(link.as_fd(), &folder.path().join(pin_name(ifindex, wish)))
            .map_err(|error| XdpError::Pin { name: name.to_owned(), error })?;
        self.attached.insert(ifindex, Attached { link, wish, mode, note: note.clone() });
        Ok((mode, note))
    }

    /// Interfaces that have our program.
    pub fn interfaces(&self) -> Vec<u32> {
        self.attached.keys().copied().collect()
    }

    /// Takes our program off an interface.
    pub fn detach(&mut self, folder: &PinFolder, ifindex: u32) -> io::Result<()> {
        if let Some(attached) = self.attached.remove(&ifindex) {
            folder.unpin(&pin_name(ifindex, attached.wish))?;
            drop(attached.link);
        }
        Ok(())
    }

    fn query(&mut self, ifindex: u32) -> io::Result<LinkXdp> {
        const IFLA_XDP: u16 = 43;
        const IFLA_XDP_ATTACHED: u16 = 2;
        const IFLA_XDP_PROG_ID: u16 = 4;
        const XDP_ATTACHED_SKB: u8 = 2;
        let mut fixed = [0; crate::netlink::IFINFO];
        fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let mut state = LinkXdp { hardware: 0, program: 0, mode: XdpMode::None };
        self.client.get(Request::new(kind::GET_LINK, 0, &fixed), |link| {
            state.hardware = rtnl::u16_at(link.payload, 2);
            let xdp = attributes(link.payload, fixed.len()).find(|(kind, _)| *kind == IFLA_XDP);
            for (kind, value) in xdp.into_iter().flat_map(|(_, nested)| attributes(nested, 0)) {
                match kind {
                    IFLA_XDP_ATTACHED => {
                        state.mode = match value.first() {
                            None | Some(0) => XdpMode::None,
                            Some(&XDP_ATTACHED_SKB) => XdpMode::Generic,
                            Some(_) => XdpMode::Native,
                        }
                    }
                    IFLA_XDP_PROG_ID => state.program = u32_at(value, 0),
                    _ => {}
                }
            }
        })?;
        Ok(state)
    }
}

/// What the kernel says of XDP on a link.
struct LinkXdp {
    hardware: u16,
    program: u32,
    mode: XdpMode,
}

/// Links are pinned by ifindex, because names may contain dots, which bpffs doesn't allow, and by the wish, so that the
/// next daemon attaches anew only if it has another one.
const PIN_PREFIXES: [(&str, AttachMode); 2] =
    [("link-", AttachMode::Native), ("generic-link-", AttachMode::Generic)];

fn pin_name(ifindex: u32, wish: AttachMode) -> String {
    let prefix = PIN_PREFIXES.iter().find(|(_, mode)| *mode == wish).map_or("", |(prefix, _)| prefix);
    format!("{prefix}{ifindex}")
}

fn parse_pin(entry: &str) -> Option<(u32, AttachMode)> {
    let parse = |(prefix, wish): (&str, AttachMode)| Some((entry.strip_prefix(prefix)?.parse().ok()?, wish));
    PIN_PREFIXES.into_iter().find_map(parse)
}

fn fallback_note(name: &str, error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        // veth_xdp_set (drivers/net/veth.c), and other drivers with the same meaning.
        Some(libc::ERANGE) => "; the peer's MTU is too large for native XDP: 3506 or less on veth",
        Some(libc::EINVAL | libc::E2BIG) => "; a smaller MTU or fewer queues may help",
        _ => "",
    };
    format!("{name}: no native XDP in driver {} ({error}{hint}); using generic mode", driver_name(name))
}

//! Cutting paths at the switch, without taking the carrier away: an XDP program at every port drops what its host
//! sends, a tcx program what is sent to the host. Both look into two maps, and a cut is one store into one of them.
//!
//! Every port has its XDP program from the start, not only cut ones: a reply by `XDP_TX` leaves a veth only if the
//! other end has a program too.

use super::config::lab_pins;
use super::namespace;
use super::shape::{Host, Shape, port_index, port_name};
use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use netft_common::lab::{Port, name, silent};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../netft-ebpf/prebuilt/lab.bpf.o");

/// Which way frames are lost, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    Both,
    /// What the host transmits.
    Tx,
    /// What the host would receive.
    Rx,
}

impl Direction {
    fn bits(self) -> u32 {
        match self {
            Direction::Both => silent::TX | silent::RX,
            Direction::Tx => silent::TX,
            Direction::Rx => silent::RX,
        }
    }
}

/// What a port loses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Frames that the host transmits.
    pub tx: bool,
    /// Frames that the host would receive.
    pub rx: bool,
}

/// The maps behind the switch's ports, open. Any thread may use them.
pub struct Ports {
    maps: Mutex<Maps>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// [`Port`] as aya can handle it.
type Words = [u32; 2];

fn words(port: Port) -> Words {
    [port.silent, port.node]
}

struct Maps {
    ports: HashMap<MapData, u32, Words>,
    hosts: Array<MapData, u32>,
}

impl Ports {
    /// Puts programs on all ports of a lab that has just been built, and pins them.
    pub fn install(shape: &Shape) -> Result<Self> {
        let folder = folder(&shape.name);
        fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let mut object = EbpfLoader::new().load(OBJECT).context("the lab's eBPF object can't be loaded")?;
        for map in [name::PORTS, name::NODES] {
            let found = object.map(map).with_context(|| format!("the lab's eBPF object has no map {map}"))?;
            found.pin(folder.join(map)).with_context(|| format!("the lab's map {map} can't be pinned"))?;
        }
        let ports = Self::open(shape)?;
        xdp(&mut object)?.load().context("the lab's XDP program is refused")?;
        egress(&mut object)?.load().context("the lab's tcx program is refused")?;
        namespace::enter(&shape.switch(), || {
            for host in shape.hosts() {
                for network in shape.networks_of(host) {
                    let port = Port { silent: 0, node: host.number() };
                    ports.with(|maps| Ok(maps.ports.insert(port_index(host, network), words(port), 0)?))?;
                    attach(&mut object, &folder, host, network)
                        .with_context(|| format!("port {}", port_name(host, network)))?;
                }
            }
            Ok(())
        })?;
        Ok(ports)
    }

    /// Opens the maps of a lab that exists.
    pub fn open(shape: &Shape) -> Result<Self> {
        let folder = folder(&shape.name);
        let map = |name: &str| {
            let path = folder.join(name);
            MapData::from_pin(&path).with_context(|| {
                format!("{} can't be opened: is the lab broken? Run `lab up` again", path.display())
            })
        };
        let ports = HashMap::try_from(Map::HashMap(map(name::PORTS)?)).context(name::PORTS)?;
        let hosts = Array::try_from(Map::Array(map(name::NODES)?)).context(name::NODES)?;
        Ok(Self { maps: Mutex::new(Maps { ports, hosts }) })
    }

    /// Silences `direction` of a port, on top of what is silent already.
    pub fn cut(&self, host: Host, network: u32, direction: Direction) -> Result<()> {
        self.change(host, network, |bits| bits | direction.bits())
    }

    /// Ends the silence of `direction`.
    pub fn heal(&self, host: Host, network: u32, direction: Direction) -> Result<()> {
        self.change(host, network, |bits| bits & !direction.bits())
    }

    /// Silences every port of a host in one step.
    pub fn silence(&self, host: Host) -> Result<()> {
        self.with(|maps| Ok(maps.hosts.set(host.number(), Direction::Both.bits(), 0)?))
    }

    /// Ends [`Self::silence`].
    pub fn unsilence(&self, host: Host) -> Result<()> {
        self.with(|maps| Ok(maps.hosts.set(host.number(), 0, 0)?))
    }

    /// Whether a host was silenced as a whole.
    pub fn silenced(&self, host: Host) -> Result<bool> {
        self.with(|maps| Ok(maps.hosts.get(&host.number(), 0)? != 0))
    }

    /// What a port loses now by its own cuts.
    pub fn loss(&self, host: Host, network: u32) -> Result<Loss> {
        let [bits, _] = self.with(|maps| Ok(maps.ports.get(&port_index(host, network), 0)?))?;
        Ok(Loss { tx: bits & silent::TX != 0, rx: bits & silent::RX != 0 })
    }

    fn change(&self, host: Host, network: u32, change: impl FnOnce(u32) -> u32) -> Result<()> {
        let index = port_index(host, network);
        self.with(|maps| {
            let [silent, node] = maps.ports.get(&index, 0)?;
            Ok(maps.ports.insert(index, words(Port { silent: change(silent), node }), 0)?)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Maps) -> Result<T>) -> Result<T> {
        let mut maps = self.maps.lock().map_err(|_| anyhow!("another thread panicked in the lab's maps"))?;
        act(&mut maps).context("the lab's maps")
    }
}

fn folder(lab: &str) -> PathBuf {
    lab_pins(lab).join("switch")
}

fn xdp(object: &mut Ebpf) -> Result<&mut Xdp> {
    let program = object.program_mut(name::PORT).context("the lab's eBPF object has no XDP program")?;
    Ok(program.try_into()?)
}

fn egress(object: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = object.program_mut(name::EGRESS).context("the lab's eBPF object has no tcx program")?;
    Ok(program.try_into()?)
}

/// Attaches both programs to a port, in whose namespace the calling thread is, by links that stay.
fn attach(object: &mut Ebpf, folder: &Path, host: Host, network: u32) -> Result<()> {
    let port = port_name(host, network);
    let pin = |link: FdLink, kind: &str| {
        link.pin(folder.join(format!("{port}-{kind}"))).map(drop).context("the link can't be pinned")
    };
    let xdp = xdp(object)?;
    let link = xdp
        .attach_to_if_index(port_index(host, network), XdpMode::Driver)
        .context("XDP can't be attached")?;
    pin(xdp.take_link(link)?.try_into()?, "xdp")?;
    let egress = egress(object)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = egress
        .attach_with_options(&port, TcAttachType::Egress, order)
        .context("tcx can't be attached (Linux 6.6 or newer is needed)")?;
    pin(egress.take_link(link)?.try_into()?, "egress")
}

//! The XDP side: netft's program on n2's interface, with one slot filled in by hand; at n1's end a program that gives
//! frames to the client's AF_XDP socket while there is one.

use super::wire::Wire;
use super::xsk::XskEnd;
use crate::lab::Lab;
use crate::test::workspace_root;
use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, MapData, XskMap};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use bytemuck::{Pod, bytes_of};
use netft_common::map::{
    DataPath, KeySet, LAYOUT_VERSION, NodeConfig, SlotConfig, Steering, name, socket_index,
};
use nix::net::if_::if_nametoindex;

/// Slot of the client's route on both ends.
const SLOT: u32 = 7;
/// Cluster of both.
pub(super) const CLUSTER: u32 = 77;
/// Number of the interface on both ends.
const INTERFACE: u16 = 1;

/// The attached programs; they go when this is dropped.
pub(super) struct Responder {
    ebpf: Ebpf,
    /// "native" or "generic".
    pub mode: String,
    /// What the client needs to make heartbeats that are accepted.
    pub client_node: NodeConfig,
    /// The client's end of the route.
    pub client_slot: SlotConfig,
}

impl Responder {
    /// Loads it and attaches it in n2.
    pub fn attach(lab: &Lab, wire: Wire) -> Result<Self> {
        let mut ebpf = load("netft")?;
        let [client, server] = [1, 2].map(|node| netft_core::types::address_bytes(wire.address(node)));
        let keys =
            [[0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908], [0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918]];
        let slot = |peer, local, remote, [send_key, receive_key]: [[u64; 2]; 2]| SlotConfig {
            generation: 1,
            remote_slot: SLOT,
            peer,
            interface: INTERFACE,
            lives: 1,
            local,
            remote,
            keys: [KeySet::sending(1, send_key, receive_key), KeySet::default()],
        };
        let node = |node_id| NodeConfig {
            layout: LAYOUT_VERSION,
            cluster_id: CLUSTER,
            node_id,
            ..NodeConfig::default()
        };
        store(&mut ebpf, name::NODE, 0, node(2))?;
        store(&mut ebpf, name::SLOTS, SLOT, slot(1, server, client, [keys[1], keys[0]]))?;
        let mut local: HashMap<_, [u8; 16], u32> = HashMap::try_from(map(&mut ebpf, name::LOCAL)?)?;
        local.insert(server, u32::from(INTERFACE), 0)?;

        let program: &mut Xdp =
            ebpf.program_mut("netft").context("the object has no program \"netft\"")?.try_into()?;
        program.load()?;
        let mode = lab.enter("n2", || {
            if program.attach(wire.device(), XdpMode::Driver).is_ok() {
                return Ok("native");
            }
            program.attach(wire.device(), XdpMode::Skb).context("attaching XDP in n2")?;
            Ok("generic")
        })?;
        Ok(Self {
            ebpf,
            mode: mode.to_string(),
            client_node: node(1),
            client_slot: slot(2, client, server, keys),
        })
    }

    /// From now on data messages that arrive in n2 go to this socket, as if probes had proven it.
    pub fn steer_to(&mut self, lab: &Lab, wire: Wire, end: &XskEnd) -> Result<()> {
        let ifindex = lab.enter("n2", || Ok(if_nametoindex(wire.device())?))?;
        let path = DataPath { ifindex, steering: Steering::Everything, generation: 0 };
        store(&mut self.ebpf, name::PATHS, INTERFACE.into(), path.to_word())?;
        let mut sockets = XskMap::try_from(map(&mut self.ebpf, name::SOCKETS)?)?;
        sockets.set(socket_index(INTERFACE, 0), end.raw_fd(), 0).context("telling XDP of n2's AF_XDP socket")
    }
}

/// The program at n1's end. Also without a socket it has a use: an XDP_TX reply leaves a veth only if its other end has
/// a program too. The switch's ports have one already.
pub(super) struct ClientProgram {
    sockets: XskMap<MapData>,
    _ebpf: Ebpf,
}

impl ClientProgram {
    /// Attaches it. It passes everything.
    pub fn attach(lab: &Lab, wire: Wire) -> Result<Self> {
        let mut ebpf = load("lab")?;
        let program: &mut Xdp =
            ebpf.program_mut("lab_socket").context("no program \"lab_socket\"")?.try_into()?;
        program.load()?;
        lab.enter("n1", || {
            let attached = program.attach(wire.device(), XdpMode::Driver);
            attached.with_context(|| format!("attaching XDP to {} in n1", wire.device())).map(|_| ())
        })?;
        let sockets = ebpf.take_map("LAB_SOCKETS").context("the lab's object has no map LAB_SOCKETS")?;
        Ok(Self { sockets: XskMap::try_from(sockets)?, _ebpf: ebpf })
    }

    /// Gives everything that arrives to `end`'s socket while `work` runs.
    pub fn during<T>(&mut self, end: &mut XskEnd, work: impl FnOnce(&mut XskEnd) -> Result<T>) -> Result<T> {
        self.sockets.set(0, end.raw_fd(), 0).context("telling XDP of n1's AF_XDP socket")?;
        let result = work(end);
        self.sockets.unset(0).context("taking n1's AF_XDP socket from XDP")?;
        result
    }
}

fn load(object: &str) -> Result<Ebpf> {
    let path = workspace_root().join(format!("netft-ebpf/prebuilt/{object}.bpf.o"));
    EbpfLoader::new()
        // As netftd does it: netft's program doesn't log, and the verifier drops what would (aya-log).
        .override_global("AYA_LOG_LEVEL", &0u8, false)
        .load_file(&path)
        .with_context(|| format!("loading {}: it needs CAP_BPF and CAP_NET_ADMIN", path.display()))
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map> {
    ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
}

fn store<T: Pod>(ebpf: &mut Ebpf, name: &str, index: u32, value: T) -> Result<()> {
    let bytes = bytes_of(&value);
    // aya takes only types that it knows to be plain; arrays of bytes are.
    match bytes.len() {
        8 => Array::<_, [u8; 8]>::try_from(map(ebpf, name)?)?.set(index, <[u8; 8]>::try_from(bytes)?, 0)?,
        32 => {
            Array::<_, [u8; 32]>::try_from(map(ebpf, name)?)?.set(index, <[u8; 32]>::try_from(bytes)?, 0)?
        }
        128 => {
            Array::<_, [u8; 128]>::try_from(map(ebpf, name)?)?.set(index, <[u8; 128]>::try_from(bytes)?, 0)?
        }
        length => bail!("map {name} has values of {length} bytes: teach the benchmark to write them"),
    }
    Ok(())
}

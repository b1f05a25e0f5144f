//! The eBPF object and its maps: loaded and pinned, or taken over from the pins of an earlier daemon.

use super::fence::parse_pin;
use super::packet_log::{self, PacketLog};
use super::types::EngineOptions;
use crate::mmap::Mapped;
use crate::sys;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{Program, ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use netft_common::fence::{self, FenceState, MAX_MACS, MAX_VIP_ADDRESSES, MAX_VIPS, VipEntry, mac_word};
use netft_common::map::{
    Counter, CpuTick, EngineState, GATES, Gate, LAYOUT_VERSION, MAX_CPUS, MAX_INTERFACES, MAX_NODES,
    MAX_QUEUES, MAX_SLOTS, NodeConfig, SlotConfig, SlotState, name,
};
use netft_core::types::NodeId;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The object that `cargo xtask build-ebpf` makes.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../netft-ebpf/prebuilt/netft.bpf.o");
/// The program in it.
const PROGRAM: &str = "netft";
/// Where a bpffs is mounted when there is none.
const BPFFS: &str = "/sys/fs/bpf";
/// What it takes to load programs and to attach them to interfaces (capabilities(7)).
const CAPABILITIES: [(u32, &str); 3] = [(39, "CAP_BPF"), (12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON")];
/// Every pinned map: name, bytes of a value, entries (0 = not checked).
const MAPS: [(&str, usize, u32); 19] = [
    (name::NODE, size_of::<NodeConfig>(), 1),
    (name::ENGINE, size_of::<EngineState>(), 1),
    (name::SLOTS, size_of::<SlotConfig>(), MAX_SLOTS),
    (name::STATES, size_of::<SlotState>(), MAX_SLOTS),
    (name::ACTIVE, size_of::<u64>(), MAX_NODES),
    (name::COUNTERS, size_of::<u64>(), Counter::COUNT),
    (name::LOCAL, 16, 0),
    (name::PATHS, size_of::<u64>(), MAX_INTERFACES),
    (name::SOCKETS, size_of::<u32>(), MAX_INTERFACES * MAX_QUEUES),
    (name::GATES, size_of::<Gate>(), GATES),
    (name::CPUS, size_of::<CpuTick>(), MAX_CPUS),
    // struct bpf_timer
    (name::TIMERS, 16, MAX_CPUS),
    (fence::name::FENCE, size_of::<FenceState>(), 1),
    (fence::name::VIPS, size_of::<VipEntry>(), MAX_VIP_ADDRESSES),
    (fence::name::OWNED, size_of::<u64>(), MAX_VIPS),
    (fence::name::EVIDENCE, size_of::<u64>(), MAX_NODES),
    (fence::name::VOUCH_INDEX, size_of::<u64>(), MAX_NODES),
    (fence::name::VOUCHED, size_of::<u64>(), MAX_CPUS * MAX_NODES),
    (fence::name::MACS, size_of::<u32>(), MAX_MACS),
];

/// Why maps and program couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// Not enough rights.
    #[error(
        "netftd lacks {0}: run it as root, or with AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON"
    )]
    Privilege(String),
    /// A path that bpffs doesn't take.
    #[error("the pin folder {0} has a dot in its last part, which bpffs doesn't allow: choose another name")]
    Dot(PathBuf),
    /// No bpffs and none can be mounted.
    #[error(
        "{path} is not on a BPF file system and none could be mounted on {BPFFS}: {error}; run `mount -t bpf bpf {BPFFS}`"
    )]
    NoBpffs {
        /// The pin folder.
        path: PathBuf,
        /// Why mounting failed.
        error: io::Error,
    },
    /// The folder can't be made or read.
    #[error("cannot use the pin folder {path}: {error}")]
    Folder {
        /// The pin folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Two daemons, one folder.
    #[error(
        "the pin folder {0} belongs to another netftd that is running: stop it, or give this one its own folder"
    )]
    Locked(PathBuf),
    /// The object wasn't accepted.
    #[error("the kernel refused netft's eBPF maps: {0}; netft needs Linux 5.12 or newer with BTF")]
    Load(#[from] EbpfError),
    /// What `log.packets` needs can't be had.
    #[error(
        "log.packets can't be had: {0}; it needs a ring buffer for eBPF (Linux 5.8 or newer, 128 KiB): set log.packets = false"
    )]
    PacketLog(String),
    /// The program wasn't accepted.
    #[error("the kernel refused netft's XDP program: {0}; netft needs Linux 5.12 or newer with BTF")]
    Program(String),
    /// The object lacks something: a mistake in the build.
    #[error("the built-in eBPF object has no usable `{0}`: rebuild it with `cargo xtask build-ebpf`")]
    Object(&'static str),
    /// A map couldn't be mapped.
    #[error("cannot map the eBPF array {map} into memory: {error}")]
    Mmap {
        /// Its name.
        map: &'static str,
        /// Why.
        error: io::Error,
    },
    /// No random numbers.
    #[error("cannot get random numbers from the kernel: {0}")]
    Random(String),
}

/// The folder of pins, locked for as long as this lives.
#[derive(Debug)]
pub struct PinFolder {
    path: PathBuf,
    /// Held for the lock.
    _lock: File,
    /// Nobody else needs what is in it (yet): a start that fails leaves nothing behind.
    remove_on_drop: bool,
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        if self.remove_on_drop {
            // An error is already on its way to the user; this one would only hide it. A fence that is there stays.
            let _ = self.clear();
            let _ = self.remove_folder();
        }
    }
}

/// Whether this process may load programs and change interfaces.
pub(super) fn check_privilege() -> Result<(), MapsError> {
    let missing = sys::missing_capabilities(&CAPABILITIES);
    if missing.is_empty() { Ok(()) } else { Err(MapsError::Privilege(missing.join(", "))) }
}

impl PinFolder {
    /// Makes the folder (and mounts bpffs if there is none), and locks it.
    pub fn open(path: &Path) -> Result<Self, MapsError> {
        check_privilege()?;
        let path = path.to_path_buf();
        if path.file_name().is_none_or(|name| name.as_encoded_bytes().contains(&b'.')) {
            return Err(MapsError::Dot(path));
        }
        ensure_bpffs(&path)?;
        let folder = |error| MapsError::Folder { path: path.clone(), error };
        // A clean stop of another daemon may remove the folder between our opening and locking it: then again.
        for _ in 0..8 {
            std::fs::create_dir_all(&path).map_err(folder)?;
            let lock = File::open(&path).map_err(folder)?;
            if !sys::try_lock(&lock).map_err(folder)? {
                return Err(MapsError::Locked(path));
            }
            use std::os::unix::fs::MetadataExt;
            let locked = lock.metadata().map_err(folder)?.ino();
            if std::fs::metadata(&path).is_ok_and(|now| now.ino() == locked) {
                let mut this = Self { path, _lock: lock, remove_on_drop: false };
                this.remove_on_drop = this.entries().is_empty();
                return Ok(this);
            }
        }
        Err(MapsError::Locked(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all pins in it.
    pub fn entries(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return Vec::new();
        };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes a pin; what it held goes unless somebody else holds it.
    pub fn unpin(&self, entry: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(entry))
    }

    /// Removes all pins, but keeps the folder and its lock, and the fence: while an address is on an interface it must have one.
    /// That of maps that are gone stays closed, as nobody ticks in them.
    pub fn clear(&self) -> Result<(), MapsError> {
        for entry in self.entries().iter().filter(|entry| parse_pin(entry).is_none()) {
            self.unpin(entry).map_err(|error| MapsError::Folder { path: self.path.join(entry), error })?;
        }
        Ok(())
    }

    fn clear_all(&self) -> Result<(), MapsError> {
        for entry in self.entries() {
            self.unpin(&entry).map_err(|error| MapsError::Folder { path: self.path.join(&entry), error })?;
        }
        Ok(())
    }

    /// From now on the pins outlive this process.
    pub fn keep(&mut self) {
        self.remove_on_drop = false;
    }

    /// Removes everything, the folder included, and the folder above it if that is empty and made by us.
    pub fn remove(&mut self) -> Result<(), MapsError> {
        self.remove_on_drop = false;
        self.clear_all()?;
        self.remove_folder()
    }

    fn remove_folder(&self) -> Result<(), MapsError> {
        std::fs::remove_dir(&self.path)
            .map_err(|error| MapsError::Folder { path: self.path.clone(), error })?;
        if let Some(parent) = self.path.parent().filter(|parent| parent.ends_with("netft")) {
            // Other daemons may have theirs in it.
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }
}

fn ensure_bpffs(path: &Path) -> Result<(), MapsError> {
    let no_bpffs = |error| MapsError::NoBpffs { path: path.to_path_buf(), error };
    let existing = |path: &Path| path.ancestors().find(|ancestor| ancestor.exists()).map(Path::to_path_buf);
    let on_bpffs = || existing(path).map_or(Ok(false), |ancestor| sys::is_bpffs(&ancestor)).map_err(no_bpffs);
    if on_bpffs()? {
        return Ok(());
    }
    if !path.starts_with(BPFFS) {
        return Err(no_bpffs(io::Error::other(format!("the folder isn't below {BPFFS}"))));
    }
    sys::mount_bpffs(Path::new(BPFFS)).map_err(no_bpffs)?;
    if on_bpffs()? { Ok(()) } else { Err(no_bpffs(io::Error::other("something else is mounted there"))) }
}

/// The arrays that engine threads read and write.
#[derive(Debug)]
pub struct SharedMaps {
    /// Who we are.
    pub node: Mapped<NodeConfig>,
    /// Our tick and flags, dead interfaces.
    pub engine: Mapped<EngineState>,
    /// Routes as XDP must know them.
    pub slots: Mapped<SlotConfig>,
    /// Evidence.
    pub states: Mapped<SlotState>,
    /// Active-route words by node id.
    pub active: Mapped<AtomicU64>,
    /// How data is received, by interface number.
    pub paths: Mapped<AtomicU64>,
    /// What the data thread has room for.
    pub gates: Mapped<Gate>,
    /// What the fence goes by; the engine writes its timeout alone.
    pub fence: Mapped<FenceState>,
    /// Whether CPUs handle legs in time.
    pub cpus: Mapped<CpuTick>,
    /// CPUs that this machine can have, of those in [`SharedMaps::cpus`].
    pub cpu_count: usize,
}

impl SharedMaps {
    /// The engine's words.
    pub fn engine_state(&self) -> &EngineState {
        self.engine.get(0)
    }

    /// Puts a slot to another use: all evidence of the old one goes. The slot must be free (generation 0), and XDP
    /// must have had time to leave it.
    pub fn reset_state(&self, slot: usize) {
        for word in self.states.get(slot).words() {
            word.store(0, Ordering::SeqCst);
        }
    }
}

/// Whether maps of an earlier daemon are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// New ones; the sentence says why, if there were others.
    New(Option<String>),
    /// Taken over.
    Adopted,
}

/// AF_XDP sockets by queue, for XDP to find them. The kernel takes one out when it is closed.
pub struct SocketMap(XskMap<MapData>);

impl SocketMap {
    /// Tells XDP of a socket.
    pub fn set(&mut self, index: u32, socket: RawFd) -> io::Result<()> {
        self.0.set(index, socket, 0).map_err(io::Error::other)
    }
}

/// Program and maps, ready.
pub struct Loaded {
    ebpf: Ebpf,
    /// The memory-mapped ones.
    pub shared: std::sync::Arc<SharedMaps>,
    counters: PerCpuArray<MapData, u64>,
    local: HashMap<MapData, [u8; 16], u32>,
    macs: HashMap<MapData, u64, u32>,
    /// AF_XDP sockets.
    pub sockets: SocketMap,
    /// Where the maps come from.
    pub origin: Origin,
    _packet_log: Option<PacketLog>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Loaded {
    /// Loads the program; takes the maps from `folder` if they fit this node, else removes all pins there and makes new
    /// ones.
    pub fn load(folder: &mut PinFolder, options: &EngineOptions) -> Result<Self, MapsError> {
        let (cluster_id, node_id) = (options.cluster_id, options.node_id);
        let origin = match fit(folder, cluster_id, node_id) {
            Ok(()) => Origin::Adopted,
            Err(why) => {
                folder.clear()?;
                folder.remove_on_drop = true;
                Origin::New(why)
            }
        };
        let mut loader = EbpfLoader::new();
        for (name, ..) in MAPS {
            loader.map_pin_path(name, folder.path().join(name));
        }
        let level = if options.log_packets { aya_log::Level::Debug as u8 } else { 0 };
        loader.override_global(aya_log::LEVEL, &level, true);
        if !options.log_packets {
            // It can't be left out; the loader makes it a page.
            loader.map_max_entries(packet_log::RING, 1);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| load_error(error, options.log_packets))?;
        xdp(&mut ebpf)?.load().map_err(|error| MapsError::Program(refusal(&error)))?;
        let packet_log = match options.log_packets {
            true => Some(start_log(&mut ebpf, folder)?),
            false => None,
        };

        let shared = SharedMaps {
            node: mapped(&ebpf, name::NODE, 1)?,
            engine: mapped(&ebpf, name::ENGINE, 1)?,
            slots: mapped(&ebpf, name::SLOTS, MAX_SLOTS)?,
            states: mapped(&ebpf, name::STATES, MAX_SLOTS)?,
            active: mapped(&ebpf, name::ACTIVE, MAX_NODES)?,
            paths: mapped(&ebpf, name::PATHS, MAX_INTERFACES)?,
            gates: mapped(&ebpf, name::GATES, GATES)?,
            fence: mapped(&ebpf, fence::name::FENCE, 1)?,
            cpus: mapped(&ebpf, name::CPUS, MAX_CPUS)?,
            cpu_count: sys::possible_cpus().min(MAX_CPUS as usize),
        };
        let timeout_ns = options.detector.engine_timeout_ns;
        shared.fence.get(0).engine_timeout_ns.store(timeout_ns, Ordering::SeqCst);
        // Sockets of an earlier daemon are gone, and what it had room for says nothing.
        (0..shared.paths.len()).for_each(|interface| shared.paths.get(interface).store(0, Ordering::Release));
        (0..shared.gates.len()).for_each(|gate| shared.gates.get(gate).limit.store(0, Ordering::Release));
        let take = |ebpf: &mut Ebpf, name| ebpf.take_map(name).ok_or(MapsError::Object(name));
        let counters = take(&mut ebpf, name::COUNTERS)?;
        let counters = PerCpuArray::try_from(counters).map_err(|_| MapsError::Object(name::COUNTERS))?;
        let local = take(&mut ebpf, name::LOCAL)?;
        let local = HashMap::try_from(local).map_err(|_| MapsError::Object(name::LOCAL))?;
        let macs = take(&mut ebpf, fence::name::MACS)?;
        let macs = HashMap::try_from(macs).map_err(|_| MapsError::Object(fence::name::MACS))?;
        let sockets = take(&mut ebpf, name::SOCKETS)?;
        let sockets = SocketMap(XskMap::try_from(sockets).map_err(|_| MapsError::Object(name::SOCKETS))?);
        if origin == Origin::Adopted {
            // Another release may speak others.
            shared.node.store(0, &NodeConfig { versions: options.versions, ..shared.node.load(0) });
        } else {
            let mut boot_nonce = [0; 16];
            getrandom::fill(&mut boot_nonce).map_err(|error| MapsError::Random(error.to_string()))?;
            let node = NodeConfig {
                layout: LAYOUT_VERSION,
                cluster_id,
                node_id: node_id.get(),
                versions: options.versions,
                reserved: [0; 2],
                boot_nonce,
            };
            shared.node.store(0, &node);
        }
        Ok(Self {
            ebpf,
            shared: std::sync::Arc::new(shared),
            counters,
            local,
            macs,
            sockets,
            origin,
            _packet_log: packet_log,
        })
    }

    /// The loaded program.
    pub fn program(&self) -> Result<std::os::fd::BorrowedFd<'_>, MapsError> {
        match self.ebpf.program(PROGRAM) {
            Some(Program::Xdp(program)) => Ok(program.fd().map_err(|_| MapsError::Object(PROGRAM))?.as_fd()),
            _ => Err(MapsError::Object(PROGRAM)),
        }
    }

    /// XDP's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        (0..).zip(Counter::NAMES).map(|(index, name)| (name, sum(&self.counters, index))).collect()
    }

    /// Tells XDP which addresses are ours: exactly `addresses`.
    pub fn set_local(&mut self, addresses: &[[u8; 16]]) -> io::Result<()> {
        set_keys(&mut self.local, addresses)
    }

    /// Tells the fence in XDP which hardware addresses are ours: exactly `macs`.
    pub fn set_macs(&mut self, macs: &[[u8; 6]]) -> io::Result<()> {
        set_keys(&mut self.macs, &macs.iter().map(|mac| mac_word(*mac)).collect::<Vec<_>>())
    }
}

/// Makes these the keys of a map in which only keys matter.
fn set_keys<K: aya::Pod + PartialEq>(map: &mut HashMap<MapData, K, u32>, keys: &[K]) -> io::Result<()> {
    let old: Vec<K> = map.keys().flatten().collect();
    for key in keys.iter().filter(|key| !old.contains(key)) {
        map.insert(key, 1, 0).map_err(io::Error::other)?;
    }
    for key in old.iter().filter(|key| !keys.contains(key)) {
        map.remove(key).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The object with its pinned maps, and no program loaded yet.
pub(super) fn load_programs(pin_dir: &Path) -> Result<Ebpf, MapsError> {
    let mut loader = EbpfLoader::new();
    for (name, ..) in MAPS {
        loader.map_pin_path(name, pin_dir.join(name));
    }
    loader.override_global(aya_log::LEVEL, &0u8, true);
    loader.map_max_entries(packet_log::RING, 1);
    Ok(loader.load(OBJECT)?)
}

/// A pinned array of which the first `len` elements are mapped.
pub(super) fn open_array<T>(pin_dir: &Path, name: &'static str, len: u32) -> Result<Mapped<T>, MapsError> {
    let map = MapData::from_pin(pin_dir.join(name)).map_err(|_| MapsError::Object(name))?;
    Mapped::new(map.fd().as_fd(), len).map_err(|error| MapsError::Mmap { map: name, error })
}

/// The log of refused frames, with the object's ring buffer and the pinned counters.
fn start_log(ebpf: &mut Ebpf, folder: &PinFolder) -> Result<PacketLog, MapsError> {
    let counters = MapData::from_pin(folder.path().join(name::COUNTERS));
    let counters = counters.and_then(|data| PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(data)));
    let counters = counters.map_err(|_| MapsError::Object(name::COUNTERS))?;
    let refused = move || {
        let rejects = (0..).zip(Counter::NAMES).filter(|(_, name)| name.starts_with("reject_"));
        rejects.map(|(index, _)| sum(&counters, index)).sum()
    };
    PacketLog::start(ebpf, refused).map_err(|error| MapsError::PacketLog(error.to_string()))
}

/// A counter of all CPUs together; 0 if the kernel doesn't tell.
fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    counters.get(&index, 0).map_or(0, |values| values.iter().sum())
}

/// Why maps aren't made: the ring buffer's failure is one of what the administrator asked for.
fn load_error(error: EbpfError, log_packets: bool) -> MapsError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if log_packets && name == packet_log::RING =>
        {
            MapsError::PacketLog(io_error.to_string())
        }
        error => error.into(),
    }
}

/// Why a program isn't loaded, without the verifier's thousands of lines: the last ones say what it didn't like.
pub(super) fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let mut last: Vec<&str> =
        log.trim_end_matches('\0').lines().rev().filter(|line| !line.is_empty()).take(4).collect();
    last.reverse();
    format!("{io_error} ({})", last.join(" / "))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, MapsError> {
    match ebpf.program_mut(PROGRAM) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => Err(MapsError::Object(PROGRAM)),
    }
}

fn mapped<T>(ebpf: &Ebpf, name: &'static str, len: u32) -> Result<Mapped<T>, MapsError> {
    let Some(Map::Array(data)) = ebpf.map(name) else {
        return Err(MapsError::Object(name));
    };
    Mapped::new(data.fd().as_fd(), len).map_err(|error| MapsError::Mmap { map: name, error })
}

/// Whether the pinned maps are of this layout, cluster and node. `Err(None)` = there are none.
fn fit(folder: &PinFolder, cluster_id: u32, node_id: NodeId) -> Result<(), Option<String>> {
    if folder.entries().is_empty() {
        return Err(None);
    }
    for (name, value_size, entries) in MAPS {
        let map = MapData::from_pin(folder.path().join(name))
            .map_err(|_| Some(format!("an earlier daemon left no usable map {name}")))?;
        let info =
            map.info().map_err(|error| Some(format!("cannot inspect the pinned map {name}: {error}")))?;
        let (size, count) = (info.value_size() as usize, info.max_entries());
        let sizes_fit = name == name::LOCAL || (size, count) == (value_size, entries);
        if !sizes_fit {
            return Err(Some(format!(
                "an earlier version left the map {name} with {count} values of {size} bytes, this one needs {entries} of {value_size}"
            )));
        }
        if name == name::NODE {
            let mapped: Mapped<NodeConfig> =
                Mapped::new(map.fd().as_fd(), 1).map_err(|error| Some(format!("map {name}: {error}")))?;
            let node = mapped.load(0);
            if node.layout != LAYOUT_VERSION {
                return Err(Some(format!(
                    "an earlier version left maps of layout {}, this one needs {LAYOUT_VERSION}",
                    node.layout
                )));
            }
            if (node.cluster_id, node.node_id) != (cluster_id, node_id.get()) {
                return Err(Some(format!(
                    "the pinned maps are those of node {} of cluster {}, this is node {node_id} of cluster {cluster_id}",
                    node.node_id, node.cluster_id
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_buffer_that_the_kernel_refuses_is_blamed_on_the_key_that_wants_it() {
        let refused = |name: &str| {
            EbpfError::MapError(MapError::CreateError {
                name: name.into(),
                io_error: io::Error::from_raw_os_error(libc::EINVAL),
            })
        };
        let told = load_error(refused(packet_log::RING), true).to_string();
        assert_eq!(
            told,
            "log.packets can't be had: Invalid argument (os error 22); it needs a ring buffer for eBPF (Linux 5.8 or \
             newer, 128 KiB): set log.packets = false"
        );
        for (name, log_packets) in [(packet_log::RING, false), (name::SLOTS, true)] {
            let told = load_error(refused(name), log_packets);
            assert!(matches!(told, MapsError::Load(_)), "{told}");
        }
    }
}

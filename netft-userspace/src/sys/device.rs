//! TAP devices and what ethtool says of an interface.

use super::check;
use netft_core::offload::{Datagrams, VirtioHeader};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSET: u32 = 1;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ifreq` with the members that are used here.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: RequestValue,
}

#[repr(C)]
union RequestValue {
    flags: libc::c_short,
    pointer: *mut libc::c_void,
    pad: [u64; 3],
}

fn request(name: &str) -> io::Result<Request> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` can't be an interface name"),
        ));
    }
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: RequestValue { pad: [0; 3] } };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(request)
}

/// How many descriptors a TAP device may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapQueues {
    /// One.
    Single,
    /// One for each of its queues: every call of [`open_tap`] adds a queue, which goes when the descriptor is closed.
    Multiple,
}

/// What is read from and written to a TAP device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapFrames {
    /// One Ethernet frame per call.
    Bare,
    /// [`VirtioHeader`], then a frame or, after [`offload_tap`], a super-packet.
    Announced,
}

/// Opens the TAP device `name`, non-blocking; makes it if there is none. EINVAL if there is one of the other kind of
/// `queues`. Of a device that nobody has open, the kind of `frames` may change.
pub fn open_tap(name: &str, queues: TapQueues, frames: TapFrames) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/net/tun: {error}")))?;
    let mut request = request(name)?;
    let kind = match queues {
        TapQueues::Single => 0,
        TapQueues::Multiple => libc::IFF_MULTI_QUEUE,
    };
    let header = match frames {
        TapFrames::Bare => 0,
        TapFrames::Announced => libc::IFF_VNET_HDR,
    };
    request.value.flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI | kind | header).unwrap_or(0);
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, as large as `Request` or smaller.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    if frames == TapFrames::Announced {
        let bytes = libc::c_int::try_from(size_of::<VirtioHeader>()).unwrap_or(0);
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const bytes) })?;
    }
    Ok(file)
}

/// Has the kernel hand over super-packets of TCP, and of UDP if it can (Linux 6.2), with partial checksums, by a TAP device
/// with [`TapFrames::Announced`]. Says whether it can: then it also takes such packets of UDP.
///
/// Not of TCP with CWR (TUN_F_TSO_ECN): these are rare, the kernel cuts them itself.
pub fn offload_tap(tap: &File) -> io::Result<Datagrams> {
    const CHECKSUM: libc::c_ulong = 0x01;
    const TCP: libc::c_ulong = 0x02 | 0x04;
    const UDP: libc::c_ulong = 0x20 | 0x40;
    let set = |offloads: libc::c_ulong| {
        // SAFETY: TUNSETOFFLOAD takes a number.
        check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, offloads) })
    };
    match set(CHECKSUM | TCP | UDP) {
        Ok(_) => Ok(Datagrams::Merged),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            set(CHECKSUM | TCP)?;
            Ok(Datagrams::Single)
        }
        Err(error) => Err(error),
    }
}

/// Whether a TAP device outlives its last descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays.
    Keep,
    /// It goes when the descriptor is closed.
    Remove,
}

/// Sets the persistence of an open TAP device.
pub fn persist_tap(tap: &File, persistence: Persistence) -> io::Result<()> {
    let keep: libc::c_ulong = match persistence {
        Persistence::Keep => 1,
        Persistence::Remove => 0,
    };
    // SAFETY: TUNSETPERSIST takes a number.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETPERSIST, keep) })?;
    Ok(())
}

/// Asks ethtool about `name`: `command` and a buffer that it fills.
fn ethtool<const WORDS: usize>(name: &str, command: u32) -> io::Result<[u32; WORDS]> {
    #[repr(C, align(8))]
    struct Buffer<const WORDS: usize>([u32; WORDS]);
    // SAFETY: socket takes plain numbers; the descriptor is new and ours alone.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?)
    };
    let mut buffer = Buffer([0u32; WORDS]);
    buffer.0[0] = command;
    let mut request = request(name)?;
    request.value.pointer = (&raw mut buffer).cast();
    // SAFETY: SIOCETHTOOL reads the ifreq and fills what its pointer names; the callers give each command a buffer of
    // at least the size of its structure, and it is read only afterwards.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request))?;
        Ok((&raw const buffer).read_volatile().0)
    }
}

/// Link speed in Mbit/s; 0 = unknown. By ethtool and not sysfs, because /sys may show another network namespace.
pub fn link_speed_mbps(name: &str) -> u32 {
    // struct ethtool_cmd, 44 bytes: speed (u16) at byte 12, speed_hi (u16) at byte 28.
    let Ok(settings) = ethtool::<16>(name, ETHTOOL_GSET) else {
        return 0;
    };
    let speed = (settings[3] & 0xffff) | (settings[7] & 0xffff) << 16;
    if speed == u32::MAX || speed == 0xffff { 0 } else { speed }
}

/// Receive queues that `name` uses; 1 if its driver doesn't say.
pub fn receive_queues(name: &str) -> u32 {
    // struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
    let Ok(channels) = ethtool::<9>(name, ETHTOOL_GCHANNELS) else {
        return 1;
    };
    channels[5].saturating_add(channels[8]).max(1)
}

/// Name of the driver of `name`.
pub fn driver_name(name: &str) -> String {
    // struct ethtool_drvinfo, 196 bytes: driver[32] at byte 4.
    let Ok(info) = ethtool::<64>(name, ETHTOOL_GDRVINFO) else {
        return "unknown".to_owned();
    };
    let driver: Vec<u8> =
        info[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&driver).into_owned()
}

//! The bpf(2) commands about links that aya doesn't offer in the form we need: attaching without its silent fallback
//! to netlink (such an attachment can't be pinned), and what a link is attached to.

use super::{c_path, check};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// `union bpf_attr` (include/uapi/linux/bpf.h) as the words that the commands here use; the rest stays 0.
#[repr(C, align(8))]
struct Attr([u32; 32]);

impl Attr {
    fn new(words: &[u32]) -> Self {
        let mut attr = [0; 32];
        attr[..words.len()].copy_from_slice(words);
        Self(attr)
    }
}

/// Both halves of a pointer, as bpf_attr stores them.
fn pointer_words<T>(pointer: *const T) -> [u32; 2] {
    let address = pointer.expose_provenance() as u64;
    [low(address), low(address >> 32)]
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low(word: u64) -> u32 {
    word as u32
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// Every address inside `attr` must be valid for what `command` does with it.
unsafe fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: the kernel reads (and for some commands writes) `size_of::<Attr>()` bytes of `attr`; that addresses
    // inside it are valid is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<Attr>()) };
    check(i32::try_from(result).unwrap_or(-1))
}

/// # Safety
/// As [`bpf`]; and `command` must return a new descriptor.
unsafe fn bpf_fd(command: libc::c_long, attr: &mut Attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the descriptor is new, nobody else owns it.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attr)?)) }
}

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// XDP_FLAGS_DRV_MODE.
    Native,
    /// XDP_FLAGS_SKB_MODE.
    Generic,
}

/// Attaches an XDP program to an interface of the calling thread's network namespace; it stays while the returned
/// link is open or pinned.
pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: AttachMode) -> io::Result<OwnedFd> {
    let flags = match mode {
        AttachMode::Native => 1 << 2,
        AttachMode::Generic => 1 << 1,
    };
    // SAFETY: link_create { prog_fd, target_ifindex, attach_type, flags } holds no address.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut Attr::new(&[number(program), ifindex, BPF_XDP, flags])) }
}

/// Which way frames go by a TC program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcSide {
    /// Into this host.
    In,
    /// Out of it.
    Out,
}

/// Attaches a TC program to an interface of the calling thread's network namespace, before all others (Linux 6.6); it stays
/// while the returned link is open or pinned.
pub fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32, side: TcSide) -> io::Result<OwnedFd> {
    // With no other program named: before all.
    const BPF_F_BEFORE: u32 = 1 << 3;
    let kind = match side {
        TcSide::In => BPF_TCX_INGRESS,
        TcSide::Out => BPF_TCX_EGRESS,
    };
    // SAFETY: link_create { prog_fd, target_ifindex, attach_type, flags, tcx { relative_fd, expected_revision } } holds no
    // address.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut Attr::new(&[number(program), ifindex, kind, BPF_F_BEFORE])) }
}

/// Replaces the program of a link; not one packet is missed.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: link_update { link_fd, new_prog_fd, flags } holds no address.
    unsafe { bpf(BPF_LINK_UPDATE, &mut Attr::new(&[number(link), number(program), 0])) }?;
    Ok(())
}

/// Pins an object on a BPF file system.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let [low, high] = pointer_words(path.as_ptr());
    // SAFETY: obj_pin { pathname, bpf_fd, file_flags }: the path is a C string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut Attr::new(&[low, high, number(object), 0])) }?;
    Ok(())
}

/// Opens a pinned object.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let [low, high] = pointer_words(path.as_ptr());
    // SAFETY: obj_get { pathname, bpf_fd, file_flags }: the path is a C string that outlives the call.
    unsafe { bpf_fd(BPF_OBJ_GET, &mut Attr::new(&[low, high, 0, 0])) }
}

/// The interface that an XDP link is attached to; 0 = it is gone, or the descriptor is no XDP link.
pub fn link_ifindex(link: BorrowedFd<'_>) -> io::Result<u32> {
    const BPF_LINK_TYPE_XDP: u32 = 6;
    // struct bpf_link_info { type, id, prog_id, padding, union { xdp { ifindex } … } }
    let info = object_info::<16>(link)?;
    Ok(if info[0] == BPF_LINK_TYPE_XDP { info[4] } else { 0 })
}

/// The same of a tcx link.
pub fn tcx_link_ifindex(link: BorrowedFd<'_>) -> io::Result<u32> {
    const BPF_LINK_TYPE_TCX: u32 = 11;
    // struct bpf_link_info { type, id, prog_id, padding, union { tcx { ifindex, attach_type } … } }
    let info = object_info::<16>(link)?;
    Ok(if info[0] == BPF_LINK_TYPE_TCX { info[4] } else { 0 })
}

/// The id of a loaded program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // struct bpf_prog_info { type, id, … }
    Ok(object_info::<2>(program)?[1])
}

/// The name of the loaded program `id`.
pub fn program_name(id: u32) -> io::Result<String> {
    // SAFETY: { prog_id, next_id, open_flags } holds no address.
    let program = unsafe { bpf_fd(BPF_PROG_GET_FD_BY_ID, &mut Attr::new(&[id])) }?;
    use std::os::fd::AsFd;
    // struct bpf_prog_info: name[16] at byte 64.
    let info = object_info::<20>(program.as_fd())?;
    let name: Vec<u8> =
        info[16..20].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// The first `WORDS` 32-bit words of what the kernel tells about an object.
fn object_info<const WORDS: usize>(object: BorrowedFd<'_>) -> io::Result<[u32; WORDS]> {
    #[repr(C, align(8))]
    struct Info<const WORDS: usize>([u32; WORDS]);
    let mut info = Info([0u32; WORDS]);
    let [low, high] = pointer_words(&raw mut info);
    let length = u32::try_from(4 * WORDS).unwrap_or(0);
    // SAFETY: info { bpf_fd, info_len, info }: the kernel writes at most `info_len` bytes, the size of `info`, which
    // lives on; its address was taken with `&raw`, and it is read only after the call.
    unsafe {
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut Attr::new(&[number(object), length, low, high]))?;
        Ok((&raw const info).read_volatile().0)
    }
}

//! Memory-mapped eBPF arrays: the engine reads evidence and writes its words with no system call.
//!
//! The kernel side of such a map changes under us at any time, so all access is by atomics: either the elements are
//! made of atomics ([`Shared`]), or they are copied word by word.

use bytemuck::Pod;
use netft_common::fence::FenceState;
use netft_common::map::{EngineState, Gate, KeySet, SlotConfig, SlotState};
use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Types that may be looked at through `&T` while the kernel writes to them.
///
/// # Safety
/// All fields must be atomics without padding between them, and any bits must be valid.
pub unsafe trait Shared {}
// SAFETY: `#[repr(C)]`, eight AtomicU64 (64 bytes, asserted in netft-common).
unsafe impl Shared for EngineState {}
// SAFETY: `#[repr(C)]`, sixteen AtomicU64 (128 bytes, asserted in netft-common).
unsafe impl Shared for SlotState {}
// SAFETY: `#[repr(C)]`, sixteen AtomicU64 (128 bytes, asserted in netft-common).
unsafe impl Shared for FenceState {}
// SAFETY: `#[repr(C)]`, two AtomicU64 (16 bytes, asserted in netft-common).
unsafe impl Shared for Gate {}
// SAFETY: an atomic itself.
unsafe impl Shared for AtomicU64 {}

/// An mmapable array map with elements of type `T`, mapped for reading and writing.
#[derive(Debug)]
pub struct Mapped<T> {
    base: NonNull<u8>,
    bytes: usize,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed by atomics.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Bytes from one element to the next: the kernel rounds values of arrays up to 8 (kernel/bpf/arraymap.c).
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps the first `len` elements. Fails unless the map is mmapable and large enough.
    pub fn new(map: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 8, "elements are aligned to 8 bytes") };
        let bytes = len as usize * Self::STRIDE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours. The kernel refuses a
        // length beyond the array (rounded up to pages).
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Self { base, bytes, len: len as usize, element: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, index: usize) -> *mut u8 {
        assert!(index < self.len, "index {index} is outside a map of {} elements", self.len);
        // SAFETY: inside the mapping, because of the check and of `new`.
        unsafe { self.base.as_ptr().add(index * Self::STRIDE) }
    }

    /// The whole element as words.
    fn words(&self, index: usize) -> &[AtomicU64] {
        // SAFETY: the element lies inside the mapping, is aligned to 8 (pages are, and the stride is a multiple), lives
        // as long as `self`, and everybody accesses it atomically.
        unsafe { std::slice::from_raw_parts(self.at(index).cast(), Self::STRIDE / 8) }
    }
}

impl<T: Shared> Mapped<T> {
    /// Element `index`. Panics if it is out of range.
    pub fn get(&self, index: usize) -> &T {
        // SAFETY: the element lies inside the mapping, is aligned (`new` asserts at most 8), lives as long as `self`, and
        // T consists of atomics for which any bits are valid (`Shared`).
        unsafe { &*self.at(index).cast() }
    }
}

impl<T: Pod> Mapped<T> {
    /// A copy of element `index`, word by word: each word is whole, the element as a whole may be torn.
    pub fn load(&self, index: usize) -> T {
        let mut value = T::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value);
        for (word, chunk) in self.words(index).iter().zip(bytes.chunks_mut(8)) {
            chunk.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes()[..chunk.len()]);
        }
        value
    }

    /// Writes element `index`: first 0 into its first word, then all others, and the true first word last. For
    /// elements whose first word is 0 while they are not valid. If only the first word differs, it is one store.
    pub fn store(&self, index: usize, value: &T) {
        store_words(self.words(index), bytemuck::bytes_of(value));
    }
}

impl Mapped<SlotConfig> {
    /// Writes the keys of slot `index` and leaves everything else, while XDP goes on using the slot: each set of keys that
    /// differs has epoch 0 meanwhile.
    pub fn store_keys(&self, index: usize, keys: &[KeySet; 2]) {
        const FIRST: usize = offset_of!(SlotConfig, keys) / 8;
        const WORDS: usize = size_of::<KeySet>() / 8;
        let places = self.words(index)[FIRST..].chunks(WORDS);
        for (words, keys) in places.zip(keys) {
            store_words(words, bytemuck::bytes_of(keys));
        }
    }
}

/// See [`Mapped::store`].
fn store_words(words: &[AtomicU64], bytes: &[u8]) {
    let mut chunks = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    });
    let Some((first, first_value)) = words.first().zip(chunks.next()) else {
        return;
    };
    let others = words[1..].iter().zip(chunks);
    if others.clone().any(|(word, value)| word.load(Ordering::Relaxed) != value) {
        first.store(0, Ordering::SeqCst);
        others.for_each(|(word, value)| word.store(value, Ordering::SeqCst));
    }
    first.store(first_value, Ordering::SeqCst);
}

const _: () =
    assert!(offset_of!(SlotConfig, keys).is_multiple_of(8) && size_of::<KeySet>().is_multiple_of(8));

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this; all references into it borrow `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

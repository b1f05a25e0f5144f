//! An allocator that counts, for the test that says who allocates. No program uses it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// Threads that are told apart; what later ones allocate is not counted.
const THREADS: usize = 256;

struct Row {
    thread: AtomicI32,
    count: AtomicU64,
}

static ROWS: [Row; THREADS] =
    [const { Row { thread: AtomicI32::new(0), count: AtomicU64::new(0) } }; THREADS];

thread_local! {
    /// Constant and without destructor: using it allocates nothing.
    static ROW: Cell<Option<&'static Row>> = const { Cell::new(None) };
}

/// The system's allocator; each allocation and each move of one counts for its thread.
///
/// ```
/// #[global_allocator]
/// static COUNTING: netft_userspace::sys::allocator::Counting = netft_userspace::sys::allocator::Counting;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Counting;

// SAFETY: everything is handed to the system's allocator as it came; counting touches only statics and a thread-local
// that needs no allocation, so it neither recurses nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps alloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; the memory came from System.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as for alloc.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as for dealloc.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn count() {
    // A thread that is ending has no thread-locals any more.
    let row = ROW.try_with(|own| own.get().or_else(|| claim(own))).ok().flatten();
    if let Some(row) = row {
        row.count.fetch_add(1, Relaxed);
    }
}

fn claim(own: &Cell<Option<&'static Row>>) -> Option<&'static Row> {
    // SAFETY: gettid takes nothing and returns a number.
    let thread = unsafe { libc::gettid() };
    let free = ROWS.iter().find(|row| row.thread.compare_exchange(0, thread, Relaxed, Relaxed).is_ok());
    own.set(free);
    free
}

/// Allocations so far by each thread that made any: its id (gettid(2)) and how many.
pub fn allocations() -> Vec<(i32, u64)> {
    let used = ROWS.iter().take_while(|row| row.thread.load(Relaxed) != 0);
    used.map(|row| (row.thread.load(Relaxed), row.count.load(Relaxed))).collect()
}

//! The thread that owns the store: a disk may take its time, and nothing else waits for it than what must.

use crate::store::{Change, Store, StoreError};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Instant;
use tokio::sync::oneshot;

/// Changes that may wait for the disk. openraft has one under way; purges and snapshots come on top.
const QUEUE: usize = 64;

/// What changes cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCost {
    /// Transactions.
    pub commits: u64,
    /// All of them together, in nanoseconds.
    pub total_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// Of late, in nanoseconds: a moving mean.
    pub recent_ns: u64,
}

#[derive(Debug, Default)]
struct Shared {
    commits: AtomicU64,
    total_ns: AtomicU64,
    max_ns: AtomicU64,
    recent_ns: AtomicU64,
    failure: OnceLock<StoreError>,
}

type Job = (Change, Option<oneshot::Sender<Result<(), StoreError>>>);

/// To the store's thread, which ends when all of these are gone.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    jobs: mpsc::SyncSender<Job>,
    shared: Arc<Shared>,
}

impl Disk {
    pub(crate) fn start(mut store: Store) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(QUEUE);
        let shared = Arc::new(Shared::default());
        let told = shared.clone();
        let run = move || {
            while let Ok((change, done)) = queue.recv() {
                let result = match told.failure.get() {
                    // What is on disk after a failure is unknown until the store is opened again.
                    Some(failure) => Err(failure.clone()),
                    None => told.measure(|| store.apply(&change)),
                };
                if let Some(done) = done {
                    // Who asked may have gone.
                    let _ = done.send(result);
                }
            }
        };
        std::thread::Builder::new().name("netft-store".into()).spawn(run)?;
        Ok(Self { jobs, shared })
    }

    /// On disk when it returns.
    pub(crate) async fn apply(&self, change: Change) -> Result<(), StoreError> {
        let (done, result) = oneshot::channel();
        let gone = || StoreError::Failed { path: String::new(), why: "its thread has ended".into() };
        self.jobs.try_send((change, Some(done))).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    /// In its turn; nobody waits for it.
    pub(crate) fn apply_later(&self, change: Change) {
        // A queue that is full has a disk that hangs: then not purging is the least of the worries.
        let _ = self.jobs.try_send((change, None));
    }

    /// Why nothing can be written any more.
    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.shared.failure.get()
    }

    pub(crate) fn cost(&self) -> DiskCost {
        let Shared { commits, total_ns, max_ns, recent_ns, .. } = &*self.shared;
        DiskCost {
            commits: commits.load(Relaxed),
            total_ns: total_ns.load(Relaxed),
            max_ns: max_ns.load(Relaxed),
            recent_ns: recent_ns.load(Relaxed),
        }
    }
}

impl Shared {
    fn measure(&self, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let start = Instant::now();
        let result = work();
        let took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Relaxed);
        self.total_ns.fetch_add(took_ns, Relaxed);
        self.max_ns.fetch_max(took_ns, Relaxed);
        // Nobody else writes these.
        let recent_ns = self.recent_ns.load(Relaxed);
        self.recent_ns.store(recent_ns - recent_ns / 8 + took_ns / 8, Relaxed);
        if let Err(failure) = &result {
            tracing::error!("{failure}");
            let _ = self.failure.set(failure.clone());
        }
        result
    }
}

//! The thread that owns the store: a disk may take its time, and nothing else waits for it than what must. Changes are carried
//! out in the order in which they are asked for; appends that wait together are one transaction.

use crate::store::{Change, Store, StoreError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// Changes that may wait for the disk: the appends of a leader, with room for a vote, a purge and a snapshot.
const QUEUE: usize = 2 * MAX_UNDER_WAY;
/// Appends of a leader's that are under way while it goes on.
pub(crate) const MAX_UNDER_WAY: usize = 64;

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

/// What keeps things, on the thread that owns it: a [`Store`].
pub(crate) trait Keeps: Send + 'static {
    /// On disk when it returns. After an error nothing more may be written.
    fn apply(&mut self, change: &Change) -> Result<(), StoreError>;
    /// Up to before which index everything is on disk, in the log or in the snapshot.
    fn end(&self) -> u64;
}

impl Keeps for Store {
    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        self.apply(change)
    }
    fn end(&self) -> u64 {
        self.end()
    }
}

type Outcome = Result<(), StoreError>;
type Job = (Change, oneshot::Sender<Outcome>);

/// To the store's thread, which ends when all of these are gone.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    jobs: mpsc::SyncSender<Job>,
    shared: Arc<Shared>,
    /// Up to before which index everything is on disk.
    end: watch::Receiver<u64>,
}

/// A change that is under way.
#[derive(Debug)]
pub(crate) struct Pending(oneshot::Receiver<Outcome>);

impl Pending {
    /// On disk when it returns.
    pub(crate) async fn done(self) -> Outcome {
        self.0.await.map_err(|_| gone())?
    }
}

fn gone() -> StoreError {
    StoreError::Failed { path: crate::FILE.into(), why: "its thread has ended".into() }
}

impl Disk {
    /// `failed` is called from the store's thread, once, before anybody hears of a failure.
    pub(crate) fn start(store: impl Keeps, failed: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel(QUEUE);
        let (ended, end) = watch::channel(store.end());
        let shared = Arc::new(Shared::default());
        let mut worker = Worker { store, shared: shared.clone(), failed: Some(failed), ended };
        std::thread::Builder::new().name("netft-store".into()).spawn(move || worker.work(&queue))?;
        Ok(Self { jobs, shared, end })
    }

    /// In its turn, whether somebody waits for it or not.
    pub(crate) fn ask(&self, change: Change) -> Result<Pending, StoreError> {
        let (done, result) = oneshot::channel();
        // A queue that is full has a disk that hangs.
        self.jobs.try_send((change, done)).map_err(|_| self.failure().cloned().unwrap_or_else(gone))?;
        Ok(Pending(result))
    }

    /// On disk when it returns.
    pub(crate) async fn apply(&self, change: Change) -> Outcome {
        self.ask(change)?.done().await
    }

    /// Everything up to this index, itself included, is on disk when it returns, in the log or in the snapshot.
    pub(crate) async fn holds(&self, index: u64) -> Outcome {
        let mut end = self.end.clone();
        // Its other end goes with the first failure.
        match end.wait_for(|end| *end > index).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.failure().cloned().unwrap_or_else(gone)),
        }
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

struct Worker<K, F> {
    store: K,
    shared: Arc<Shared>,
    failed: Option<F>,
    ended: watch::Sender<u64>,
}

impl<K: Keeps, F: FnOnce()> Worker<K, F> {
    /// Until nobody asks any more, or the first failure: what is on disk then is unknown until the store is opened again.
    fn work(&mut self, queue: &mpsc::Receiver<Job>) {
        let mut next = None;
        while let Some((mut change, done)) = next.take().or_else(|| queue.recv().ok()) {
            let mut waiting = vec![done];
            if let Change::Append(entries) = &mut change {
                while let Ok((another, done)) = queue.try_recv() {
                    let Change::Append(more) = another else {
                        next = Some((another, done));
                        break;
                    };
                    entries.extend(more);
                    waiting.push(done);
                }
            }
            let result = self.measure(&change);
            if let Err(failure) = &result {
                tracing::error!("{failure}");
                let _ = self.shared.failure.set(failure.clone());
                self.failed.take().into_iter().for_each(|failed| failed());
            }
            for done in waiting {
                // Who asked may have gone.
                let _ = done.send(result.clone());
            }
            if result.is_err() {
                return;
            }
        }
    }

    fn measure(&mut self, change: &Change) -> Outcome {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| self.store.apply(change)));
        let result = result.unwrap_or_else(|_| {
            Err(StoreError::Failed { path: crate::FILE.into(), why: "its thread panicked".into() })
        });
        let took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Shared { commits, total_ns, max_ns, recent_ns, .. } = &*self.shared;
        commits.fetch_add(1, Relaxed);
        total_ns.fetch_add(took_ns, Relaxed);
        max_ns.fetch_max(took_ns, Relaxed);
        // Nobody else writes these.
        let before_ns = recent_ns.load(Relaxed);
        recent_ns.store(before_ns - before_ns / 8 + took_ns / 8, Relaxed);
        if result.is_ok() {
            self.ended.send_replace(self.store.end());
        }
        result
    }
}

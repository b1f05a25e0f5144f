//! Detection and route selection: judges every route by send stamps of completed heartbeats, paces leg 1, and picks
//! the active route to each peer. Runs on the detection thread; after [`Detector::new`] nothing here allocates.

mod damping;
mod deadlines;
mod detector;
mod histogram;
mod interface;
mod outbox;
mod pace;
mod peer;
mod receiving;
mod route;
#[cfg(not(netft_sabotage))]
mod sabotage;
#[cfg(netft_sabotage)]
pub mod sabotage;
#[cfg(test)]
mod tests;

pub use damping::DampingConfig;
pub use detector::{Detector, DetectorCounters};
pub use histogram::Histogram;
pub use interface::{
    Adopted, DetectorCommand, DetectorConfig, DetectorEvent, Evidence, RequestTransmit, RouteRecord,
    RouteSetup, RouteView, SlotEvidence, StoreCommand,
};
pub use receiving::longest_silence_ns;

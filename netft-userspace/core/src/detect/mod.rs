//! Detection and route selection: judges every route by send stamps of completed heartbeats, paces leg 1, and picks
//! the active route to each peer. Runs on the detection thread; after [`Detector::new`] nothing here allocates.

mod detector;
mod histogram;
mod interface;
mod outbox;
mod peer;
mod route;
#[cfg(test)]
mod tests;

pub use detector::{Detector, DetectorCounters};
pub use histogram::Histogram;
pub use interface::{
    Adopted, DetectorCommand, DetectorConfig, DetectorEvent, Evidence, RequestTransmit, RouteRecord,
    RouteSetup, RouteView, SlotEvidence, StoreCommand,
};

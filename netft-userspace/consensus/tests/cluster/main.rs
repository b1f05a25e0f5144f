//! Nodes of consensus with real sockets on loopback and real stores on disk. How fast anything is, is printed and not judged.

#![expect(clippy::unwrap_used, reason = "in tests and their helpers, what fails fails the test")]

mod children;
mod crash;
mod elections;
mod members;
mod owners;
mod rig;
mod secrets;

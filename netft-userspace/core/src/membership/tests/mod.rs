//! Memberships wired together in virtual time.

mod clock;
mod handshake;
mod hostile;
mod rotation;
mod sessions;
mod soak;
mod topology;
mod versions;
mod world;

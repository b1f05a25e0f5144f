//! Memberships wired together in virtual time.

mod handshake;
mod hostile;
mod topology;
mod world;

//! Genuine messages, to be spoilt and sent again.

use super::{Ear, Message, Path, message};
use crate::cluster::{adapter, ask};
use crate::lab::Lab;
use anyhow::{Context, Result};
use bytemuck::bytes_of;
use netft_common::wire::{Header, kind};
use netft_userspace::control::Request;
use netft_userspace::listing::Nodes;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The attacker's own MAC.
pub const ATTACKER: [u8; 6] = [0x02, 0xba, 0xd0, 0, 0, 1];
/// How long to listen for one message: hellos are repeated every second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one node sent to another, all of it accepted by now.
pub struct Overheard {
    /// Legs 1 to 4.
    pub legs: [Message; 4],
    /// A hello.
    pub hello: Message,
    /// A data message.
    pub data: Message,
}

impl Overheard {
    /// Listens at the port of `sender` on `network` for one message of a kind to `receiver`.
    pub fn one(lab: &Lab, receiver: &str, sender: &str, network: &str, wanted: u8) -> Result<Message> {
        let addresses = addresses(lab, receiver, network)?;
        find(&mut Ear::open(lab, sender, network)?, &addresses, wanted)
            .with_context(|| format!("from {sender} to {receiver} over {network}"))
    }

    /// Listens at the port of `sender` on `network` for one of each to `receiver`.
    pub fn at(lab: &Lab, receiver: &str, sender: &str, network: &str) -> Result<Self> {
        let addresses = addresses(lab, receiver, network)?;
        let mut ear = Ear::open(lab, sender, network)?;
        let mut find = |wanted: u8| {
            find(&mut ear, &addresses, wanted)
                .with_context(|| format!("from {sender} to {receiver} over {network}"))
        };
        let hello = find(kind::HELLO)?;
        let target = adapter(lab, receiver)?.ipv4.to_string();
        let mut ping = Command::new("ping");
        ping.args(["-q", "-c3", "-i0.2", &target]).stdout(Stdio::null());
        let mut ping = lab.spawn(sender, &mut ping)?;
        let data = find(kind::DATA);
        ping.wait().context("ping")?;
        // Last, so that they are the newest.
        let [one, two, three, four] =
            [kind::REQUEST, kind::REPLY, kind::CONFIRMATION, kind::FINAL_REPLY].map(find);
        Ok(Self { legs: [one?, two?, three?, four?], hello, data: data? })
    }
}

/// A node's addresses on a network.
fn addresses(lab: &Lab, node: &str, network: &str) -> Result<Vec<IpAddr>> {
    let listed: Nodes = ask(lab, node, Request::Nodes)?;
    let own = listed.nodes.iter().find(|node| node.local).context("a node lists itself")?;
    let endpoints = own.endpoints.iter().filter(|endpoint| endpoint.interface == network);
    Ok(endpoints.filter_map(|endpoint| endpoint.address.split('/').next()?.parse().ok()).collect())
}

/// The next message of a kind to one of `addresses`.
fn find(ear: &mut Ear, addresses: &[IpAddr], wanted: u8) -> Result<Message> {
    let found = ear.find(PATIENCE, |frame| {
        let message = message(frame)?;
        let fits = message.header()?.kind == wanted && addresses.contains(&message.path.destination);
        fits.then_some(message)
    })?;
    found.with_context(|| format!("no message of kind {wanted} is sent"))
}

impl Message {
    /// The way that it took, but from the attacker's own MAC.
    pub fn spoofed(&self) -> Path {
        Path { from: ATTACKER, ..self.path }
    }

    /// The payload with another header.
    pub fn with_header(&self, change: impl FnOnce(&mut Header)) -> Vec<u8> {
        let Some(mut header) = self.header() else { return self.payload.clone() };
        change(&mut header);
        [bytes_of(&header), &self.payload[size_of::<Header>()..]].concat()
    }
}

/// `payload` with one bit flipped at or after byte `from`: another bit for each `number`, far from the last one.
pub fn flipped(payload: &[u8], from: usize, number: u64) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let bits = (payload.len().saturating_sub(from) as u64 * 8).max(1);
    // A prime, so that every bit has its turn.
    let bit = usize::try_from(number * 7919 % bits).unwrap_or(0);
    if let Some(byte) = payload.get_mut(from + bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    payload
}

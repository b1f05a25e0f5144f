//! One TCP connection of consensus, sealed: a Noise handshake that takes the cluster secret to start and to answer, then
//! records of at most [`MAX_RECORD`] bytes. Always encrypted, whatever the level of data: there is little of it.
//!
//! Both ends name themselves, their stores and what they know of the other's store *within* the handshake, so that nobody
//! takes a store that was emptied for the one that voted (rule 14 of `docs/ownership.md`).

use crate::dice::Dice;
use crate::session::noise::builder;
use crate::types::NodeId;
use snow::{HandshakeState, TransportState};

/// The version of what is said over connections; datagrams have versions of their own.
const VERSION: u8 = 1;
/// The longest sealed record, in bytes: that of Noise.
pub const MAX_RECORD: usize = 65_535;
/// What the seal of a record takes, in bytes.
pub const SEAL: usize = 16;
/// What a record can hold, in bytes.
pub const MAX_PLAIN: usize = MAX_RECORD - SEAL;
/// The longest message of the handshake, in bytes.
pub const MAX_HANDSHAKE: usize = 48 + INTRODUCTION;
/// Bytes of an [`Introduction`].
const INTRODUCTION: usize = 20;

/// A connection that doesn't verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The other end doesn't know the secret, is of another cluster or version, or wants to talk to another node.
    #[error("the handshake doesn't verify: the other end has another secret, cluster or version")]
    Handshake,
    /// A record that isn't the next one of the other end's.
    #[error("a record doesn't verify")]
    Record,
}

impl From<snow::Error> for ChannelError {
    fn from(_: snow::Error) -> Self {
        Self::Handshake
    }
}

/// Who an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The node.
    pub node: NodeId,
    /// Its store's.
    pub incarnation: u64,
    /// The store of the other end that this one's log knows; 0 = it knows none.
    pub expects: u64,
}

impl Introduction {
    /// Whether two ends may talk: neither knows another store of the other's than the one it has now.
    pub fn fits(&self, other: &Self) -> bool {
        let known = |expects: u64, incarnation: u64| expects == 0 || expects == incarnation;
        known(self.expects, other.incarnation) && known(other.expects, self.incarnation)
    }

    fn to_bytes(self) -> [u8; INTRODUCTION] {
        let mut bytes = [0; INTRODUCTION];
        bytes[..2].copy_from_slice(&self.node.get().to_le_bytes());
        bytes[4..12].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[12..].copy_from_slice(&self.expects.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, ChannelError> {
        let bytes: &[u8; INTRODUCTION] = bytes.try_into().map_err(|_| ChannelError::Handshake)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let node = NodeId::new(u16::from_le_bytes([bytes[0], bytes[1]])).ok_or(ChannelError::Handshake)?;
        Ok(Self { node, incarnation: word(4), expects: word(12) })
    }
}

fn prologue(cluster_id: u32, to: NodeId) -> Vec<u8> {
    let mut prologue = b"netft consensus ".to_vec();
    prologue.push(VERSION);
    prologue.extend(cluster_id.to_le_bytes());
    prologue.extend(to.get().to_le_bytes());
    prologue
}

/// Which cluster, and its key.
#[derive(Clone, Copy)]
pub struct Cluster<'a> {
    /// Its number.
    pub id: u32,
    /// [`crate::keys::Keyring::consensus_psk`].
    pub psk: &'a [u8; 32],
}

/// The end that connects, while it waits for the answer.
#[derive(Debug)]
pub struct Opening(Box<HandshakeState>);

impl Opening {
    /// Starts; gives what to send.
    pub fn new(
        cluster: Cluster<'_>,
        own: Introduction,
        to: NodeId,
        dice: &mut Dice,
    ) -> Result<(Self, Vec<u8>), ChannelError> {
        let prologue = prologue(cluster.id, to);
        let mut state =
            builder(cluster.psk, &prologue, dice).map_err(|_| ChannelError::Handshake)?.build_initiator()?;
        let mut message = vec![0; MAX_HANDSHAKE];
        let len = state.write_message(&own.to_bytes(), &mut message)?;
        message.truncate(len);
        Ok((Self(Box::new(state)), message))
    }

    /// Takes the answer: from whom it is, and the channel.
    pub fn finish(mut self, answer: &[u8]) -> Result<(Introduction, Channel), ChannelError> {
        let other = read(&mut self.0, answer)?;
        Ok((other, Channel(self.0.into_transport_mode()?)))
    }
}

/// The end that was connected to: who the other end is, not yet answered.
#[derive(Debug)]
pub struct Answering {
    state: Box<HandshakeState>,
    /// The other end. Who replays what it saw is told apart only by the first record.
    pub other: Introduction,
}

impl Answering {
    /// Takes what [`Opening::new`] gave.
    pub fn new(
        cluster: Cluster<'_>,
        own: NodeId,
        dice: &mut Dice,
        message: &[u8],
    ) -> Result<Self, ChannelError> {
        let prologue = prologue(cluster.id, own);
        let mut state =
            builder(cluster.psk, &prologue, dice).map_err(|_| ChannelError::Handshake)?.build_responder()?;
        let other = read(&mut state, message)?;
        Ok(Self { state: Box::new(state), other })
    }

    /// Answers: what to send, and the channel.
    pub fn answer(mut self, own: Introduction) -> Result<(Vec<u8>, Channel), ChannelError> {
        let mut message = vec![0; MAX_HANDSHAKE];
        let len = self.state.write_message(&own.to_bytes(), &mut message)?;
        message.truncate(len);
        Ok((message, Channel(self.state.into_transport_mode()?)))
    }
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Introduction, ChannelError> {
    let mut payload = [0; MAX_HANDSHAKE];
    let len = state.read_message(message, &mut payload)?;
    Introduction::from_bytes(&payload[..len])
}

/// An agreed channel. Records must be opened in the order in which they were sealed, without gaps: TCP sees to that, and whoever
/// interferes breaks the connection.
#[derive(Debug)]
pub struct Channel(TransportState);

impl Channel {
    /// Seals at most [`MAX_PLAIN`] bytes.
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let mut record = vec![0; plain.len() + SEAL];
        let len = self.0.write_message(plain, &mut record).map_err(|_| ChannelError::Record)?;
        record.truncate(len);
        Ok(record)
    }

    /// Opens the next record of the other end's.
    pub fn open(&mut self, record: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let mut plain = vec![0; record.len()];
        let len = self.0.read_message(record, &mut plain).map_err(|_| ChannelError::Record)?;
        plain.truncate(len);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn node(id: u16) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn introduction(id: u16, incarnation: u64, expects: u64) -> Introduction {
        Introduction { node: node(id), incarnation, expects }
    }

    fn dice() -> Dice {
        Dice::new([3; 32])
    }

    fn pair() -> (Channel, Channel) {
        let cluster = Cluster { id: 5, psk: &KEY };
        let (opening, message) =
            Opening::new(cluster, introduction(1, 11, 22), node(2), &mut dice()).unwrap();
        let answering = Answering::new(cluster, node(2), &mut dice(), &message).unwrap();
        assert_eq!(answering.other, introduction(1, 11, 22));
        let (answer, two) = answering.answer(introduction(2, 22, 0)).unwrap();
        assert!(message.len() <= MAX_HANDSHAKE && answer.len() <= MAX_HANDSHAKE);
        let (other, one) = opening.finish(&answer).unwrap();
        assert_eq!(other, introduction(2, 22, 0));
        (one, two)
    }

    #[test]
    fn both_ends_say_who_they_are_and_then_talk_both_ways() {
        let (mut one, mut two) = pair();
        let record = one.seal(b"vote").unwrap();
        assert_eq!(two.open(&record).unwrap(), b"vote");
        let record = two.seal(&[9; MAX_PLAIN]).unwrap();
        assert_eq!(record.len(), MAX_RECORD);
        assert_eq!(one.open(&record).unwrap(), [9; MAX_PLAIN]);
    }

    #[test]
    fn a_record_that_was_changed_repeated_or_left_out_is_refused() {
        let (mut one, mut two) = pair();
        let (first, second) = (one.seal(b"1").unwrap(), one.seal(b"2").unwrap());
        assert_eq!(two.open(&second), Err(ChannelError::Record));
        let mut bad = first.clone();
        bad[0] ^= 1;
        assert_eq!(two.open(&bad), Err(ChannelError::Record));
        assert_eq!(two.open(&first).unwrap(), b"1");
        assert_eq!(two.open(&first), Err(ChannelError::Record));
    }

    #[test]
    fn another_secret_cluster_or_addressee_gets_no_channel() {
        let cluster = Cluster { id: 5, psk: &KEY };
        let (_, message) = Opening::new(cluster, introduction(1, 11, 22), node(2), &mut dice()).unwrap();
        for (id, psk, own) in [(5, [8; 32], 2), (6, KEY, 2), (5, KEY, 3)] {
            let cluster = Cluster { id, psk: &psk };
            let refused = Answering::new(cluster, node(own), &mut dice(), &message);
            assert!(matches!(refused, Err(ChannelError::Handshake)), "{id} {own}");
        }
        for len in 0..message.len() {
            assert!(Answering::new(cluster, node(2), &mut dice(), &message[..len]).is_err());
        }
    }

    #[test]
    fn who_knows_another_store_of_the_other_end_does_not_fit() {
        let base = introduction(1, 11, 22);
        assert!(base.fits(&introduction(2, 22, 11)) && base.fits(&introduction(2, 22, 0)));
        assert!(!base.fits(&introduction(2, 23, 11)) && !base.fits(&introduction(2, 22, 12)));
    }
}

//! The Noise handshake: pattern NNpsk0, so that who doesn't know the cluster secret can neither start nor answer it, and who
//! learns the secret later can't read what was said before.

use crate::dice::Dice;
use hkdf::Hkdf;
use netft_common::wire::{NOISE_LEN, SECRET_LEN};
use sha2::Sha256;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";

/// A handshake message that isn't of the other end's, or of another pair, life or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake doesn't verify")]
pub struct NoiseError;

impl From<snow::Error> for NoiseError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// What both ends have in common afterwards, and nobody else: the source of all keys of a session.
pub type Secrets = Hkdf<Sha256>;

/// The end that starts, while it waits.
#[derive(Debug)]
pub struct Initiation {
    state: Box<HandshakeState>,
    /// What to send.
    pub message: [u8; NOISE_LEN],
}

impl Initiation {
    /// Starts; `own` is told to the other end.
    pub fn new(
        psk: &[u8; 32],
        prologue: &[u8],
        own: &[u8; SECRET_LEN],
        dice: &mut Dice,
    ) -> Result<Self, NoiseError> {
        let mut state = builder(psk, prologue, dice)?.build_initiator()?;
        let mut message = [0; NOISE_LEN];
        state.write_message(own, &mut message)?;
        Ok(Self { state: Box::new(state), message })
    }

    /// Takes the answer, and says what is told in it. A wrong one changes nothing: the right one may still come.
    pub fn finish(&mut self, answer: &[u8; NOISE_LEN]) -> Result<(Secrets, [u8; SECRET_LEN]), NoiseError> {
        let mut theirs = [0; SECRET_LEN];
        self.state.read_message(answer, &mut theirs)?;
        Ok((secrets(&mut self.state), theirs))
    }
}

/// What answering gives.
pub struct Response {
    /// What to send.
    pub answer: [u8; NOISE_LEN],
    /// What both have in common now.
    pub secrets: Secrets,
    /// What the other end tells.
    pub theirs: [u8; SECRET_LEN],
}

/// Answers the message of an [`Initiation`].
pub fn respond(
    psk: &[u8; 32],
    prologue: &[u8],
    own: &[u8; SECRET_LEN],
    dice: &mut Dice,
    message: &[u8; NOISE_LEN],
) -> Result<Response, NoiseError> {
    let mut state = builder(psk, prologue, dice)?.build_responder()?;
    let mut theirs = [0; SECRET_LEN];
    state.read_message(message, &mut theirs)?;
    let mut answer = [0; NOISE_LEN];
    state.write_message(own, &mut answer)?;
    Ok(Response { answer, secrets: secrets(&mut state), theirs })
}

pub(crate) fn builder<'a>(
    psk: &'a [u8; 32],
    prologue: &'a [u8],
    dice: &mut Dice,
) -> Result<Builder<'a>, NoiseError> {
    let params: NoiseParams = PATTERN.parse()?;
    let resolver = Resolver(dice.split());
    Ok(Builder::with_resolver(params, Box::new(resolver)).psk(0, psk)?.prologue(prologue)?)
}

/// The keys that Noise would encrypt with are the input of our own derivation: a session needs more than two.
fn secrets(state: &mut HandshakeState) -> Secrets {
    let (one, other) = state.dangerously_get_raw_split();
    let mut input = [0; 64];
    input[..32].copy_from_slice(&one);
    input[32..].copy_from_slice(&other);
    Hkdf::new(Some(state.get_handshake_hash()), &input)
}

/// The default primitives with our own dice: the core asks no operating system.
struct Resolver(Dice);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        // Asked for once in a handshake, which has one key to make.
        Some(Box::new(self.0.clone()))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Random for Dice {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        for chunk in dest.chunks_mut(32) {
            chunk.copy_from_slice(&self.block()[..chunk.len()]);
        }
        Ok(())
    }
}

//! Handshake steps, as they come from strangers and as an insider with the secret could send them.

use crate::hello::{CLUSTER, MS, address, met, secret, state, transmits};
use netft_common::handshake;
use netft_common::wire::{HELLO_TAG_LEN, Handshake, Versions};
use netft_core::keys::Keyring;
use netft_core::membership::MembershipCommand;
use std::collections::BTreeSet;
use std::mem::offset_of;

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let (_, said) = met();
    let steps = said.into_iter().map(|said| said.payload);
    let steps = steps.filter(|payload| handshake::decode(payload, Versions::OURS).is_ok());
    ["step-1", "step-1-again", "step-2"].into_iter().zip(steps).collect()
}

pub fn target(inputs: &[Vec<u8>]) -> impl FnMut(&[u8]) + use<> {
    let ring = Keyring::new(&secret(), CLUSTER);
    let (mut nodes, _) = met();
    let stale = |bytes: &&Vec<u8>| handshake::decode(bytes, Versions::OURS).is_err();
    assert_eq!(inputs.iter().find(stale), None, "the wire format has changed: write the corpus anew");
    let genuine: BTreeSet<Vec<u8>> = inputs.iter().cloned().collect();
    let calm = nodes.each_ref().map(state);
    let mut now = 100 * MS;
    move |bytes| {
        now += MS / 1000;
        for (index, node) in nodes.iter_mut().enumerate() {
            let (own, peer) = if index == 0 { (address(1), address(2)) } else { (address(2), address(1)) };
            node.handle_timeout(now);
            transmits(node);
            // From a stranger. A recording of the last step 1 is answered again, as the answer may have been lost.
            let accepted = node.handle_frame(now, own, peer, bytes).is_ok();
            assert!(!accepted || genuine.contains(bytes), "a forgery was accepted");
            let answered: usize = transmits(node).iter().map(|step| step.payload.len()).sum();
            let room = if accepted { bytes.len() } else { 0 };
            assert!(answered <= room, "answered with {answered} bytes");
            assert!(node.poll_command().is_none());
            while node.poll_event().is_some() {}
            assert_eq!(state(node), calm[index]);
        }
        if handshake::decode(bytes, Versions::OURS).is_ok() {
            insider(&ring, now, bytes);
        }
    }
}

/// Signed anew, for the right pair: what it changes is bounded, and nothing that the nodes send with.
fn insider(ring: &Keyring, now: u64, bytes: &[u8]) {
    for from in [1, 2] {
        let ([mut one, mut two], said) = met();
        let (own, peer) = (address(3 - from), address(from));
        let node = if from == 1 { &mut two } else { &mut one };
        let genuine = said
            .iter()
            .find(|said| said.local == peer && handshake::decode(&said.payload, Versions::OURS).is_ok());
        let genuine = &genuine.expect("both have sent steps").payload;
        let mut signed = bytes.to_vec();
        // As its header and nonce are, with a fresh sequence, so that it gets as far as it can.
        let nonce = offset_of!(Handshake, boot_nonce);
        signed[..24].copy_from_slice(&genuine[..24]);
        signed[24..32].copy_from_slice(&(now * 2).to_le_bytes());
        signed[nonce..nonce + 16].copy_from_slice(&genuine[nonce..nonce + 16]);
        let end = signed.len() - HELLO_TAG_LEN;
        let tag = ring.hello_tag(peer, own, &signed[..end]);
        signed[end..].copy_from_slice(&tag);
        let epoch = node.peers()[0].keys;
        let _ = node.handle_frame(now, own, peer, &signed);
        assert!(transmits(node).len() <= 16);
        assert_eq!(node.peers()[0].keys, epoch, "nobody but the other end makes keys that are sent with");
        while let Some(command) = node.poll_command() {
            assert!(!matches!(
                command,
                MembershipCommand::RemoveRoute(_) | MembershipCommand::RemoveSession(_)
            ));
        }
    }
}

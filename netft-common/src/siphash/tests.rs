//! Against the authors' vectors and against the standard library's SipHash-2-4.

extern crate std;

use super::{SipHash24, Stream, siphash};
use core::hash::Hasher;
use std::vec::Vec;

/// `vectors_sip64` of the authors' reference code (github.com/veorq/SipHash, vectors.h), first 16.
const VECTORS: [u64; 16] = [
    0x726f_db47_dd0e_0e31,
    0x74f8_39c5_93dc_67fd,
    0x0d6c_8009_d9a9_4f5a,
    0x8567_6696_d7fb_7e2d,
    0xcf27_94e0_2771_87b7,
    0x1876_5564_cd99_a68d,
    0xcbc9_466e_58fe_e3ce,
    0xab02_00f5_8b01_d137,
    0x93f5_f579_9a93_2462,
    0x9e00_82df_0ba9_e4b0,
    0x7a5d_bbc5_94dd_b9f3,
    0xf4b3_2f46_226b_ada7,
    0x751e_8fbc_860e_e5fb,
    0x14ea_5627_c084_3d90,
    0xf723_ca90_8e7a_f2ee,
    0xa129_ca61_49be_45e5,
];

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

fn message(len: usize) -> Vec<u8> {
    (0..=255u8).cycle().take(len).collect()
}

#[expect(deprecated, reason = "the standard library's only SipHash-2-4 is an independent oracle")]
fn oracle(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut hasher = core::hash::SipHasher::new_with_keys(key[0], key[1]);
    hasher.write(bytes);
    hasher.finish()
}

#[test]
fn the_authors_vectors_hold() {
    for (len, expected) in VECTORS.into_iter().enumerate() {
        assert_eq!(siphash(KEY, &message(len)), expected, "length {len}");
    }
}

#[test]
fn every_length_agrees_with_the_standard_library() {
    for len in 0..600 {
        let key = [0x0123_4567_89ab_cdef ^ len as u64, !(len as u64)];
        assert_eq!(siphash(key, &message(len)), oracle(key, &message(len)), "length {len}");
    }
}

#[test]
fn pieces_of_any_length_give_the_same_tag() {
    let whole = message(61);
    for first in 0..=61 {
        for second in first..=61 {
            let mut stream = Stream::new(KEY);
            stream.write(&whole[..first]).write(&whole[first..second]).write(&whole[second..]);
            assert_eq!(stream.finish(), oracle(KEY, &whole), "cut at {first} and {second}");
        }
    }
}

#[test]
fn words_give_the_same_tag_as_bytes() {
    let bytes = message(112);
    let mut hash = SipHash24::new(KEY);
    for word in bytes.as_chunks::<8>().0 {
        hash.write(u64::from_le_bytes(*word));
    }
    assert_eq!(hash.finish(112, 0), oracle(KEY, &bytes));
}

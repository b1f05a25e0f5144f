#![no_main]
#![expect(dead_code, reason = "what makes the corpus is used by tests/fuzz")]

#[path = "../../../handshake.rs"]
mod handshake;
#[path = "../../../hello.rs"]
mod hello;

netft_libfuzzer::target!(handshake);

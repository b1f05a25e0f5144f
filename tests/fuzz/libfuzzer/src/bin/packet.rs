#![no_main]
#![expect(dead_code, reason = "what makes the corpus is used by tests/fuzz")]

#[path = "../../../packet.rs"]
mod packet;

netft_libfuzzer::target!(packet);

#![no_main]
#![expect(dead_code, reason = "what makes the corpus is used by tests/fuzz")]

#[path = "../../../frame.rs"]
mod frame;

use netft_libfuzzer::Adversary;

netft_libfuzzer::target!(frame, Adversary::Sighted);

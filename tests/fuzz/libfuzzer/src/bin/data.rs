#![no_main]
#![expect(dead_code, reason = "what makes the corpus is used by tests/fuzz")]

#[path = "../../../data.rs"]
mod data;

use netft_libfuzzer::Adversary;

netft_libfuzzer::target!(data, Adversary::Sighted);

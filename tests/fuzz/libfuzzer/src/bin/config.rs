#![no_main]
#![expect(dead_code, reason = "what makes the corpus is used by tests/fuzz")]

#[path = "../../../config.rs"]
mod config;

netft_libfuzzer::target!(config);

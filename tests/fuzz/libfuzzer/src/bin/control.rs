#![no_main]
#![expect(dead_code, reason = "what makes the corpus is used by tests/fuzz")]

#[path = "../../../control.rs"]
mod control;

netft_libfuzzer::target!(control);

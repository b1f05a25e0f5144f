//! Criterion benches of the parts; `cargo bench -p netft-benches`. What is measured side by side in the lab is
//! `cargo xtask bench`.

//! Only here the detector is compiled with its switches for breaking it.

fn main() {
    println!("cargo::rustc-cfg=netft_sabotage");
    println!("cargo::rerun-if-changed=build.rs");
}

//! Only here fence and ownership are compiled with their switches for leaving out a rule.

fn main() {
    println!("cargo::rustc-cfg=netft_sabotage");
    println!("cargo::rerun-if-changed=build.rs");
}

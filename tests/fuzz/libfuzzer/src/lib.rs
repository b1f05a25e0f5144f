//! What the binaries share: a target's corpus, from where `tests/fuzz` keeps it.

use std::path::Path;

/// Who makes the inputs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Adversary {
    /// Sees nothing of the code under test: can't make a tag.
    Blind,
    /// libFuzzer: sees both sides of every comparison, and copies the right tag into the next input.
    Sighted,
}

/// The committed inputs of a target.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let entries = std::fs::read_dir(folder).expect("the corpus is committed");
    entries
        .map(|entry| std::fs::read(entry.expect("a readable folder").path()).expect("a readable file"))
        .collect()
}

/// The `main` of one target: the module of `tests/fuzz` with that name.
#[macro_export]
macro_rules! target {
    ($name:ident $(, $adversary:expr)?) => {
        thread_local! {
            static TARGET: std::cell::RefCell<Box<dyn FnMut(&[u8])>> =
                std::cell::RefCell::new(Box::new($name::target(&$crate::corpus(stringify!($name)) $(, $adversary)?)));
        }
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.with_borrow_mut(|target| target(bytes)));
    };
}

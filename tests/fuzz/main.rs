//! Random mutations of well-formed messages, for a bounded time: nothing crashes, nothing is answered with more than
//! it had, and bytes that aren't authentic change no state.
//!
//! `NETFT_FUZZ_SECONDS` (default 5) is shared by the targets; `NETFT_FUZZ_SEED` repeats a run. A failing input is
//! printed in hex. `cargo test -p netft-tests --release --test fuzz -- --ignored` writes the corpus anew.

mod data;
mod frame;
mod hello;
mod mutate;

use mutate::Mutator;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Targets that share the time.
const TARGETS: u32 = 3;

/// Well-formed inputs of one target.
struct Corpus {
    name: &'static str,
    inputs: Vec<Vec<u8>>,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

impl Corpus {
    fn read(name: &'static str) -> Self {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder(name))
            .expect("the corpus is committed")
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        let inputs: Vec<Vec<u8>> =
            files.iter().map(|file| std::fs::read(file).expect("a readable file")).collect();
        assert!(!inputs.is_empty(), "no corpus for {name}");
        Self { name, inputs }
    }

    fn write(name: &str, inputs: &[(&str, Vec<u8>)]) {
        std::fs::create_dir_all(folder(name)).expect("a writable tree");
        for (file, bytes) in inputs {
            std::fs::write(folder(name).join(file), bytes).expect("a writable tree");
        }
    }

    /// Feeds every input, then mutations of them until the time is over.
    fn run(&self, mut target: impl FnMut(&[u8])) {
        let seconds =
            std::env::var("NETFT_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5.0);
        let seed =
            std::env::var("NETFT_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(1, |since| u64::from(since.subsec_nanos()) + since.as_secs())
            });
        let end = Instant::now() + Duration::from_secs_f64(seconds) / TARGETS;
        let mut mutator = Mutator::new(seed);
        let mut count = 0u64;
        let mut feed = |input: &[u8]| {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(input)));
            if let Err(panic) = outcome {
                let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                eprintln!("{}: NETFT_FUZZ_SEED={seed}, failing input: {hex}", self.name);
                std::panic::resume_unwind(panic);
            }
        };
        self.inputs.iter().for_each(|input| feed(input));
        while Instant::now() < end {
            for _ in 0..64 {
                feed(&mutator.mutate(&self.inputs));
                count += 1;
            }
        }
        println!("{}: {count} inputs, seed {seed}", self.name);
    }
}

#[test]
fn hellos() {
    hello::fuzz(&Corpus::read("hello"));
}

#[test]
fn data_messages() {
    data::fuzz(&Corpus::read("data"));
}

#[test]
fn frames() {
    frame::fuzz(&Corpus::read("frame"));
}

#[test]
#[ignore = "writes files into the source tree"]
fn write_corpus() {
    Corpus::write("hello", &hello::corpus());
    Corpus::write("data", &data::corpus());
    Corpus::write("frame", &frame::corpus());
}

//! Bytes that nobody vouches for, into everything that reads them: nothing crashes, nothing is answered with more
//! than it had, and what isn't authentic changes no state.
//!
//! Each target starts from well-formed inputs (its corpus) and feeds a fixed number of mutations of them, the same ones
//! for the same seed. `NETFT_FUZZ_ROUNDS` (default 1, some seconds) makes it longer, `NETFT_FUZZ_SEED` (default 1)
//! other. A failing input is printed in hex. `--ignored` writes the corpus anew. The same targets run under libFuzzer:
//! see
//! `docs/fuzzing.md`.

mod config;
mod control;
mod data;
mod frame;
mod handshake;
mod hello;
mod mutate;
mod packet;

use mutate::Mutator;
use std::path::PathBuf;

/// Who makes the inputs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Adversary {
    /// Sees nothing of the code under test: can't make a tag.
    Blind,
}

/// Well-formed inputs of one target, and what mutations are made of besides.
struct Corpus {
    name: &'static str,
    inputs: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn number(variable: &str) -> u64 {
    std::env::var(variable).map_or(1, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
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
        Self { name, inputs, words: &[] }
    }

    fn with_words(self, words: &'static [&'static str]) -> Self {
        Self { words, ..self }
    }

    fn write(name: &str, inputs: &[(&str, Vec<u8>)]) {
        std::fs::create_dir_all(folder(name)).expect("a writable tree");
        for (file, bytes) in inputs {
            std::fs::write(folder(name).join(file), bytes).expect("a writable tree");
        }
    }

    /// Feeds every input, then `per_round` mutations of them for each round.
    fn run(&self, per_round: u64, make: impl FnOnce(&[Vec<u8>]) -> Box<dyn FnMut(&[u8])>) {
        let seed = number("NETFT_FUZZ_SEED");
        let count = per_round * number("NETFT_FUZZ_ROUNDS");
        let mut target = make(&self.inputs);
        let mut mutator = Mutator::new(seed, self.words);
        let mut feed = |input: &[u8]| {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(input)));
            if let Err(panic) = outcome {
                let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                eprintln!("{}: NETFT_FUZZ_SEED={seed}, failing input: {hex}", self.name);
                std::panic::resume_unwind(panic);
            }
        };
        self.inputs.iter().for_each(|input| feed(input));
        (0..count).for_each(|_| feed(&mutator.mutate(&self.inputs)));
        println!("{}: {} inputs, seed {seed}", self.name, count + self.inputs.len() as u64);
    }
}

#[test]
fn hellos() {
    Corpus::read("hello").run(20_000, |inputs| Box::new(hello::target(inputs)));
}

#[test]
fn handshake_steps() {
    Corpus::read("handshake").run(20_000, |inputs| Box::new(handshake::target(inputs)));
}

#[test]
fn data_messages() {
    Corpus::read("data").run(1_000_000, |inputs| Box::new(data::target(inputs, Adversary::Blind)));
}

#[test]
fn frames() {
    Corpus::read("frame").run(1_000_000, |inputs| Box::new(frame::target(inputs, Adversary::Blind)));
}

#[test]
fn packets() {
    Corpus::read("packet").run(100_000, |inputs| Box::new(packet::target(inputs)));
}

#[test]
fn control_requests() {
    Corpus::read("control")
        .with_words(control::WORDS)
        .run(300_000, |inputs| Box::new(control::target(inputs)));
}

#[test]
fn configurations() {
    Corpus::read("config").with_words(config::WORDS).run(20_000, |inputs| Box::new(config::target(inputs)));
}

#[test]
#[ignore = "writes files into the source tree"]
fn write_corpus() {
    Corpus::write("hello", &hello::corpus());
    Corpus::write("handshake", &handshake::corpus());
    Corpus::write("data", &data::corpus());
    Corpus::write("frame", &frame::corpus());
    Corpus::write("packet", &packet::corpus());
    Corpus::write("control", &control::corpus());
    Corpus::write("config", &config::corpus());
}

//! Small changes to well-formed bytes.

/// A generator of mutations, the same for the same seed.
pub struct Mutator {
    state: u64,
    words: &'static [&'static str],
}

impl Mutator {
    /// `words` are put into text here and there.
    pub fn new(seed: u64, words: &'static [&'static str]) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, words }
    }

    /// xorshift64*.
    fn draw(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() >> 32).unwrap_or(0) % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 8] = [0, 1, 0x0f, 0x10, 0x7f, 0x80, 0xfe, 0xff];
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { self.draw().to_le_bytes()[7] }
    }

    /// One of `inputs` with one to four changes.
    pub fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, inputs);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        if !self.words.is_empty() && self.below(2) == 0 {
            let word = self.words[self.below(self.words.len())].bytes();
            let end = if self.below(2) == 0 { at } else { (at + self.below(16)).min(bytes.len()) };
            bytes.splice(at..end, word);
            return;
        }
        match self.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.byte(),
            2 => {
                // A whole field becomes one value.
                let (byte, end) = (self.byte(), (at + (1 << self.below(5))).min(bytes.len()));
                bytes[at..end].fill(byte);
            }
            3 => bytes.truncate(at),
            4 => {
                let (byte, more) = (self.byte(), self.below(64));
                bytes.resize((bytes.len() + more).min(2048), byte);
            }
            5 => {
                // The end of another input.
                let other = &inputs[self.below(inputs.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(at..).unwrap_or_default());
            }
            6 => {
                let (from, len) = (self.below(bytes.len()), self.below(16));
                let piece: Vec<u8> = bytes.iter().skip(from).take(len).copied().collect();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = (at + self.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

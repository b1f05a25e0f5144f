//! SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012), the tag of heartbeats and data.
//!
//! Two forms. [`SipHash24`] takes whole 64-bit words and fits eBPF: no buffer, no branch that depends on lengths.
//! [`Stream`] takes bytes in pieces and is for userspace. Both give the same tag for the same bytes.

/// The state, fed with whole little-endian words.
#[derive(Clone, Copy)]
pub struct SipHash24 {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipHash24 {
    /// Starts with a 128-bit key: two little-endian words.
    #[inline(always)]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    /// Takes eight bytes of the message.
    #[inline(always)]
    pub const fn write(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    /// Ends a message of `len` bytes whose last `len % 8` ones are the low bytes of `rest` (0 if there are none).
    #[inline(always)]
    pub const fn finish(mut self, len: usize, rest: u64) -> u64 {
        self.write((len as u64) << 56 | rest);
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

/// The same over bytes that come in pieces of any length.
#[derive(Clone, Copy)]
pub struct Stream {
    hash: SipHash24,
    rest: u64,
    len: usize,
}

impl Stream {
    /// Starts with a 128-bit key: two little-endian words.
    pub const fn new(key: [u64; 2]) -> Self {
        Self { hash: SipHash24::new(key), rest: 0, len: 0 }
    }

    /// Takes the next bytes of the message.
    #[inline]
    pub fn write(&mut self, mut bytes: &[u8]) -> &mut Self {
        while !self.len.is_multiple_of(8)
            && let Some((&byte, tail)) = bytes.split_first()
        {
            self.push(byte);
            bytes = tail;
        }
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.hash.write(u64::from_le_bytes(*word));
        }
        self.len = self.len.wrapping_add(words.len() * 8);
        for &byte in tail {
            self.push(byte);
        }
        self
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.rest |= u64::from(byte) << (self.len % 8 * 8);
        self.len = self.len.wrapping_add(1);
        if self.len.is_multiple_of(8) {
            self.hash.write(self.rest);
            self.rest = 0;
        }
    }

    /// The tag of all that was written.
    pub const fn finish(&self) -> u64 {
        self.hash.finish(self.len, self.rest)
    }
}

/// The tag of one piece of bytes.
pub fn siphash(key: [u64; 2], bytes: &[u8]) -> u64 {
    Stream::new(key).write(bytes).finish()
}

#[cfg(test)]
mod tests;

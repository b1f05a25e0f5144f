//! The Internet checksum (RFC 1071).

/// Sum of 16-bit words, an odd byte padded with 0. In the other byte order, which makes no difference as long as all
/// words are (RFC 1071, section 2B), and by 32 bits at a time: carries collect in the upper half.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum();
    sum + u64::from(u32::from_le_bytes(last))
}

/// The complement of a sum folded to 16 bits, to be written with `to_le_bytes` if the sum is [`sum`]'s.
pub fn complement(sum: u64) -> u16 {
    !fold(sum)
}

/// A sum folded to 16 bits.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

/// The partial checksum `old` of a transport length `old_len`, for a length of `new_len` (RFC 1624).
pub(super) fn with_length(old: u16, old_len: u16, new_len: u16) -> u16 {
    if old_len == new_len {
        return old;
    }
    fold(u64::from(old) + u64::from(!old_len) + u64::from(new_len))
}

/// Completes the partial checksum of what begins at `start` of `frame`, and has the field at `start + offset`.
/// Does nothing if that isn't inside.
pub(super) fn complete(frame: &mut [u8], start: usize, offset: usize) {
    let Some(covered) = frame.get_mut(start..) else { return };
    let checksum = match complement(sum(covered)) {
        // What UDP means by 0 is that there is none; for everybody else both are the same number.
        0 => 0xffff,
        checksum => checksum,
    };
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        field.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Makes the checksum of the IPv4 header that is all of `header`.
pub(super) fn set_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = complement(sum(header));
    header[10..12].copy_from_slice(&checksum.to_le_bytes());
}

//! Hellos to bytes and back: bounds-checked, without allocation, for any bytes at all. The authenticator is made and
//! checked by whoever has the key (`netft-core`'s `keys`); here it is only found.

use crate::wire::{
    HELLO_TAG_LEN, Header, Hello, HelloEndpoint, MAGIC, MAX_ENDPOINTS, SECRETS_VERSION, Versions,
    endpoint_flags, flags, kind,
};
use bytemuck::Zeroable;
use core::mem::offset_of;

/// Length of the longest hello.
pub const MAX_LEN: usize = size_of::<Hello>() + MAX_ENDPOINTS * size_of::<HelloEndpoint>() + HELLO_TAG_LEN;

/// Length of the fixed part: later versions have what earlier ones have, and more behind it.
const fn fixed_len(version: u8) -> usize {
    if version < SECRETS_VERSION { offset_of!(Hello, other_secret) } else { size_of::<Hello>() }
}

/// Length of a hello in `version` with so many endpoints.
pub const fn len(version: u8, endpoints: usize) -> usize {
    fixed_len(version) + endpoints * size_of::<HelloEndpoint>() + HELLO_TAG_LEN
}

/// Why bytes are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// Shorter than a header, or without the magic.
    NotOurs,
    /// Another wire version.
    Version,
    /// Another kind of message.
    Kind,
    /// The length is not what the endpoint count says, or there are too many endpoints.
    Length,
    /// A name is not zero-padded UTF-8, a field that must be zero isn't, a prefix length is impossible.
    Field,
}

/// A well-formed hello, not yet authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloView<'a> {
    /// The fixed part.
    pub hello: Hello,
    /// The endpoints, as bytes.
    endpoints: &'a [u8],
    /// What the authenticator covers, after the addresses.
    pub signed: &'a [u8],
    /// The authenticator.
    pub tag: &'a [u8; HELLO_TAG_LEN],
}

impl<'a> HelloView<'a> {
    /// The endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = HelloEndpoint> + 'a {
        self.endpoints
            .as_chunks::<{ size_of::<HelloEndpoint>() }>()
            .0
            .iter()
            .map(|bytes| bytemuck::pod_read_unaligned(bytes))
    }
}

/// Writes everything but the authenticator, in the version that the header names, with `endpoint_count` set right. Returns how
/// many bytes of `out` were used; the authenticator belongs right behind them. Endpoints beyond [`MAX_ENDPOINTS`] are left out.
pub fn encode(hello: &Hello, endpoints: &[HelloEndpoint], out: &mut [u8; MAX_LEN]) -> usize {
    let endpoints = &endpoints[..endpoints.len().min(MAX_ENDPOINTS)];
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_ENDPOINTS")]
    let hello = Hello { endpoint_count: endpoints.len() as u16, ..*hello };
    let fixed = fixed_len(hello.header.version);
    let end = fixed + size_of_val(endpoints);
    out[..fixed].copy_from_slice(&bytemuck::bytes_of(&hello)[..fixed]);
    out[fixed..end].copy_from_slice(bytemuck::cast_slice(endpoints));
    end
}

/// Header, what the authenticator covers after the addresses, and the authenticator, of a hello in *any* version: what all
/// versions have in common (`docs/wire-format.md`). `None` = it is no hello.
pub fn introduction(bytes: &[u8]) -> Option<(Header, &[u8], &[u8; HELLO_TAG_LEN])> {
    let header: Header = bytemuck::pod_read_unaligned(bytes.first_chunk::<{ size_of::<Header>() }>()?);
    let (signed, tag) = bytes.split_last_chunk::<HELLO_TAG_LEN>()?;
    let whole = header.magic == MAGIC && header.kind == kind::HELLO && signed.len() >= size_of::<Header>();
    whole.then_some((header, signed, tag))
}

/// Checks the form of `bytes`, in one of `versions`: everything that can be checked without key and configuration. The cluster id is left
/// to the caller, who has something to say about it.
pub fn decode(bytes: &[u8], versions: Versions) -> Result<HelloView<'_>, HelloError> {
    let header = bytes.first_chunk::<{ size_of::<Header>() }>().ok_or(HelloError::NotOurs)?;
    let header: Header = bytemuck::pod_read_unaligned(header);
    if header.magic != MAGIC {
        return Err(HelloError::NotOurs);
    }
    if !versions.has(header.version) {
        return Err(HelloError::Version);
    }
    if header.kind != kind::HELLO {
        return Err(HelloError::Kind);
    }
    let (signed, tag) = bytes.split_last_chunk::<HELLO_TAG_LEN>().ok_or(HelloError::Length)?;
    let (fixed, endpoints) = signed.split_at_checked(fixed_len(header.version)).ok_or(HelloError::Length)?;
    let mut hello = Hello::zeroed();
    bytemuck::bytes_of_mut(&mut hello)[..fixed.len()].copy_from_slice(fixed);
    let count = usize::from(hello.endpoint_count);
    if count > MAX_ENDPOINTS || endpoints.len() != count * size_of::<HelloEndpoint>() {
        return Err(HelloError::Length);
    }
    let view = HelloView { hello, endpoints, signed, tag };
    let challenge_only = hello.header.flags & flags::CHALLENGE_ONLY != 0;
    let sound = hello.reserved == 0
        && Versions::from_slot(header.slot).is_some_and(|theirs| theirs.has(header.version))
        && text(&hello.name).is_some_and(|name| !name.is_empty())
        && text(&hello.site).is_some()
        && !(challenge_only && count > 0)
        && view.endpoints().all(|endpoint| sound_endpoint(&endpoint));
    if sound { Ok(view) } else { Err(HelloError::Field) }
}

fn sound_endpoint(endpoint: &HelloEndpoint) -> bool {
    let bits = if is_ipv4(&endpoint.address) { 32 } else { 128 };
    endpoint.prefix_len <= bits && text(&endpoint.name).is_some()
}

/// Whether the 16 bytes are an IPv4 address, `::ffff:a.b.c.d`.
pub fn is_ipv4(address: &[u8; 16]) -> bool {
    matches!(address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
}

/// Zero-padded UTF-8 without control characters; `None` if it is anything else. What goes into logs and terminals
/// must not be able to steer them.
pub fn text(field: &[u8]) -> Option<&str> {
    let len = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (text, padding) = field.split_at(len);
    let text = core::str::from_utf8(text).ok()?;
    (padding.iter().all(|&byte| byte == 0) && !text.chars().any(char::is_control)).then_some(text)
}

/// As many whole characters of `text` as fit, zero-padded.
pub fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut len = text.len().min(N);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    let mut field = [0; N];
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    field
}

/// Link state as [`endpoint_flags`] say it: (carrier, administratively up).
pub fn link_flags(endpoint: &HelloEndpoint) -> (bool, bool) {
    (endpoint.flags & endpoint_flags::CARRIER != 0, endpoint.flags & endpoint_flags::ADMIN_UP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let mut hello = Hello::zeroed();
        hello.header.magic = MAGIC;
        hello.header.version = Versions::OURS.newest;
        hello.header.slot = Versions::OURS.to_slot();
        hello.header.kind = kind::HELLO;
        hello.name = field("n1");
        hello
    }

    fn endpoint(last: u8) -> HelloEndpoint {
        let mut endpoint = HelloEndpoint::zeroed();
        endpoint.address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
        endpoint.prefix_len = 24;
        endpoint.name = field("eth0");
        endpoint
    }

    #[test]
    fn what_was_encoded_decodes() {
        let mut out = [0; MAX_LEN];
        let endpoints: [HelloEndpoint; 20] = core::array::from_fn(|i| endpoint(u8::try_from(i).unwrap()));
        for count in 0..=20 {
            let end = encode(&hello(), &endpoints[..count], &mut out);
            let view = decode(&out[..end + HELLO_TAG_LEN], Versions::OURS).unwrap();
            assert!(view.endpoints().eq(endpoints[..count.min(16)].iter().copied()));
            assert_eq!(view.signed.len(), end);
        }
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        for version in 1..=3 {
            let mut hello = hello();
            hello.header.version = version;
            hello.header.slot = Versions { oldest: 1, newest: 3 }.to_slot();
            let mut out = [0; MAX_LEN];
            let end = encode(&hello, &[endpoint(1), endpoint(2)], &mut out) + HELLO_TAG_LEN;
            assert_eq!(end, len(version, 2));
            for len in 0..MAX_LEN {
                assert_eq!(
                    decode(&out[..len], Versions::ANY).is_ok(),
                    len == end,
                    "version {version}, {len} bytes"
                );
            }
        }
    }

    /// `docs/decisions/0038-version-2-knows-of-a-second-secret.md`.
    #[test]
    fn version_1_ends_before_the_proof_and_is_alike_up_to_there() {
        let written = |version| {
            let mut hello = hello();
            (hello.header.version, hello.other_secret) = (version, 0x0102_0304_0506_0708);
            let mut out = [0; MAX_LEN];
            let end = encode(&hello, &[endpoint(1)], &mut out) + HELLO_TAG_LEN;
            let view = decode(&out[..end], Versions::OURS).unwrap();
            assert!(view.endpoints().eq([endpoint(1)]));
            (out, end, view.hello.other_secret)
        };
        let ((one, one_end, untold), (two, two_end, told)) = (written(1), written(2));
        assert_eq!((untold, told), (0, 0x0102_0304_0506_0708));
        // Lengths as on disk in the release before: whoever changes them speaks another version.
        assert_eq!((one_end, two_end), (168 + 48 + 32, 176 + 48 + 32));
        assert_eq!((&one[..4], &one[5..168]), (&two[..4], &two[5..168]));
        assert_eq!(&one[168..168 + 48], &two[176..176 + 48]);
    }

    #[test]
    fn fields_that_lie_are_refused() {
        let decode_with = |change: fn(&mut Hello, &mut HelloEndpoint)| {
            let (mut hello, mut endpoint) = (hello(), endpoint(1));
            change(&mut hello, &mut endpoint);
            let mut out = [0; MAX_LEN];
            let end = encode(&hello, &[endpoint], &mut out);
            decode(&out[..end + HELLO_TAG_LEN], Versions::OURS).map(|_| ())
        };
        assert_eq!(decode_with(|_, _| ()), Ok(()));
        assert_eq!(decode_with(|h, _| h.header.magic = 1), Err(HelloError::NotOurs));
        assert_eq!(decode_with(|h, _| h.header.version = 9), Err(HelloError::Version));
        assert_eq!(decode_with(|h, _| h.header.kind = kind::DATA), Err(HelloError::Kind));
        assert_eq!(decode_with(|h, _| h.reserved = 1), Err(HelloError::Field));
        assert_eq!(decode_with(|h, _| h.name = [0; 32]), Err(HelloError::Field));
        assert_eq!(decode_with(|h, _| h.name[0] = 0xff), Err(HelloError::Field));
        assert_eq!(decode_with(|h, _| h.name[1] = 0x1b), Err(HelloError::Field));
        assert_eq!(decode_with(|h, _| h.name[30] = b'x'), Err(HelloError::Field));
        assert_eq!(decode_with(|h, _| h.header.flags = flags::CHALLENGE_ONLY), Err(HelloError::Field));
        assert_eq!(decode_with(|_, e| e.prefix_len = 33), Err(HelloError::Field));
        assert_eq!(decode_with(|_, e| (e.address, e.prefix_len) = ([1; 16], 128)), Ok(()));
        assert_eq!(decode_with(|_, e| (e.address, e.prefix_len) = ([1; 16], 129)), Err(HelloError::Field));
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        assert_eq!(text(&field::<4>("aüüü")), Some("aü"));
        assert_eq!(text(&field::<2>("üü")), Some("ü"));
        assert_eq!(text(&field::<32>("")), Some(""));
    }
}

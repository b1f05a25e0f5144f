//! How long the super-packets should be that the kernel makes for `netft0`.

use crate::sys::socket::{MAX_MESSAGE, MAX_SEGMENTS};
use netft_core::data::HEADROOM;

const ETHERNET: usize = 14;

/// The longest super-packet of TCP for an adapter with that MTU (IFLA_GSO_MAX_SIZE, bytes): what becomes one message of
/// the UDP socket, with all its frames sealed. One frame more, and there were a second message for that alone.
///
/// TCP takes room for headers off it (MAX_TCP_HEADER and one, include/net/tcp.h: 321 where most is configured), and the
/// header of IPv4 and its own with time stamps off each frame.
pub(super) fn gso_max_size(mtu: u16) -> u32 {
    const KEPT: usize = 321;
    const HEADERS: usize = 40 + 12;
    let mtu = usize::from(mtu);
    let size = frames(mtu) * mtu.saturating_sub(HEADERS) + KEPT;
    u32::try_from(size).unwrap_or(u32::MAX).min(65535)
}

/// Frames that fit into one message.
fn frames(mtu: usize) -> usize {
    (MAX_MESSAGE / (HEADROOM + ETHERNET + mtu)).clamp(1, MAX_SEGMENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_of_tcp_fills_one_message_and_no_more() {
        for mtu in [1280u16, 1378, 1386, 3000, 8886, 9216] {
            let most = frames(mtu.into());
            // IPv4 and IPv6, without and with time stamps; as little and as much room as kernels keep.
            for headers in [40, 52, 60, 72] {
                for kept in [193, 321] {
                    let made = (gso_max_size(mtu) as usize - kept) / (usize::from(mtu) - headers);
                    assert!(
                        made == most || made + 1 == most,
                        "MTU {mtu}, {headers} bytes of headers: {made}"
                    );
                }
            }
        }
    }
}

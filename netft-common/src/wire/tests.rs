//! The tables of `docs/wire-format.md` say what the structures are.

extern crate std;

use super::*;
use core::mem::offset_of;
use std::format;
use std::string::String;

const PAGE: &str = include_str!("../../../docs/wire-format.md");

/// The page from a heading to the next.
fn section(heading: &str) -> &'static str {
    let start = PAGE.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading:?}"));
    let text = &PAGE[start + 1 + heading.len()..];
    &text[..text.find("\n#").unwrap_or(text.len())]
}

fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! documented {
    ($heading:literal, $structure:ty: $($field:ident)*) => {
        let text = section($heading);
        let mut rows = 0;
        $(
            let offset = offset_of!($structure, $field);
            let bytes = size_of_field(|structure: &$structure| &structure.$field);
            let row = format!("\n| {offset} | {bytes} | `{}` |", stringify!($field));
            assert!(text.contains(&row), "{}: expected {row}", $heading);
            rows += bytes;
        )*
        assert_eq!(rows, size_of::<$structure>(), "{}: a field is missing in this test", $heading);
    };
}

#[test]
fn the_tables_are_the_structures() {
    documented!("## Header", Header: magic version kind flags cluster_id source destination slot key_epoch sequence);
    documented!("## Heartbeat", Heartbeat: header initiator_sent_ns responder_sent_ns tick_age_ns vouch_index
        down_slot down_reason reserved tag);
    documented!("## Hello", Hello: header boot_nonce challenge echo sender_slot receiver_slot name site adapter_mac
        adapter_mtu adapter_ipv4 endpoint_count reserved adapter_ipv6 other_secret);
    documented!("### Endpoint", HelloEndpoint: address prefix_len flags interface mac mtu speed_mbps name);
    documented!("## Handshake", Handshake: header boot_nonce number step reserved noise);
    documented!("## Data", Data: header tag);
}

#[test]
fn every_kind_and_counter_is_explained() {
    let legs = [kind::REQUEST, kind::REPLY, kind::CONFIRMATION, kind::FINAL_REPLY];
    for kind in legs.into_iter().chain([kind::HELLO, kind::HANDSHAKE, kind::DATA, kind::PROBE]) {
        assert!(section("## Header").contains(&format!("\n| {kind} | ")), "kind {kind}");
    }
    let fates: String = section("## What XDP does with a frame").into();
    for name in crate::map::Counter::NAMES {
        assert!(fates.contains(&format!("`{name}`")), "counter {name}");
    }
}

//! Requests on the control socket: whoever may open it may write anything.

use netft_userspace::control::{Envelope, REQUEST_MAX, Request, VERSION, parse};

/// What requests are made of.
pub const WORDS: &[&str] = &[
    "\"version\":1",
    "\"request\":",
    "\"status\"",
    "\"routes\"",
    "\"events\"",
    "\"reload\"",
    "\"follow\":true",
    "\"only\":null",
    "\"dry_run\":",
    "{",
    "}",
    "[[[[[[[[",
    "1e999",
    "-1",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\n",
];

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let requests = [
        ("status", Request::Status),
        ("nodes", Request::Nodes),
        ("networks", Request::Networks),
        ("routes", Request::Routes { history: true, only: Some("n2".into()) }),
        ("events", Request::Events { since_unix_ns: Some(1_700_000_000_000_000_000), follow: true }),
        ("config", Request::Config),
        ("reload", Request::Reload { dry_run: true }),
    ];
    requests.map(|(name, request)| (name, line(request))).to_vec()
}

fn line(request: Request) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, request }).expect("requests are plain");
    line.push(b'\n');
    line
}

pub fn target(inputs: &[Vec<u8>]) -> impl FnMut(&[u8]) + use<> {
    let stale = |bytes: &&Vec<u8>| parse(bytes).is_err();
    assert_eq!(inputs.iter().find(stale), None, "the requests have changed: write the corpus anew");
    |bytes| match parse(bytes) {
        Ok(request) => {
            // What was understood is what the other end would have meant.
            assert_eq!(parse(&line(request.clone())), Ok(request));
        }
        Err(sentence) => {
            assert!(sentence.len() < REQUEST_MAX + 200, "{} bytes", sentence.len());
        }
    }
}

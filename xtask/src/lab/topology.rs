//! Builds namespaces, bridges, cables and addresses, by as few `ip` processes as possible.

use super::namespace;
use super::shape::{CLIENT_HOST, Host, ROUTER_HOST, Shape};
use super::shape::{interface_index, ipv4, ipv6, network_name, port_index, port_name};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Kernel settings of every namespace, made before it has interfaces, so that they inherit them. Nothing may speak by
/// itself or wait: no duplicate address detection, no router solicitation, no reverse path filter.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
    // Join reports are sent at random moments within this: soon, so that it is quiet afterwards.
    ("ipv6/conf/default/mldv2_unsolicited_report_interval", "1"),
];
/// The switch has no addresses at all.
const SWITCH_SETTINGS: &[(&str, &str)] =
    &[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];
const ROUTER_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/forwarding", "1"),
];

/// Builds all of it. The caller removes what there is of it when this fails.
pub fn build(shape: &Shape) -> Result<()> {
    let added: String = shape.namespaces().iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "netns add {name}");
        text
    });
    batch(None, &added)?;
    for host in shape.hosts() {
        let more = if host == Host::Router { ROUTER_SETTINGS } else { &[] };
        apply_settings(&shape.namespace(host), &[SETTINGS, more])?;
    }
    apply_settings(&shape.switch(), &[SWITCH_SETTINGS])?;
    batch(None, &cables(shape))?;
    // Each namespace's batch is a process of its own, so they run side by side.
    std::thread::scope(|scope| {
        let mut threads = vec![scope.spawn(|| batch(Some(&shape.switch()), &switch(shape)))];
        for host in shape.hosts() {
            threads.push(scope.spawn(move || batch(Some(&shape.namespace(host)), &addresses(shape, host))));
        }
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that ran ip panicked"),
        })
    })
}

fn cables(shape: &Shape) -> String {
    let mut text = String::new();
    let switch = shape.switch();
    let queues = match shape.queues {
        1 => String::new(),
        more => format!("numtxqueues {more} numrxqueues {more} "),
    };
    for host in shape.hosts() {
        for network in shape.networks_of(host) {
            let _ = writeln!(
                text,
                "link add {} index {} netns {} mtu 1500 {queues}type veth peer name {} index {} netns {switch} mtu 1500 {queues}",
                network_name(network),
                interface_index(network),
                shape.namespace(host),
                port_name(host, network),
                port_index(host, network),
            );
        }
    }
    text
}

fn switch(shape: &Shape) -> String {
    let mut text = String::from("link set lo up\n");
    for network in 1..=shape.networks {
        let name = network_name(network);
        let _ = writeln!(
            text,
            "link add {name} mtu 1500 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {name} up"
        );
    }
    for host in shape.hosts() {
        for network in shape.networks_of(host) {
            let _ =
                writeln!(text, "link set {} master {} up", port_name(host, network), network_name(network));
        }
    }
    text
}

fn addresses(shape: &Shape, host: Host) -> String {
    let mut text = String::from("link set lo up\n");
    for network in shape.networks_of(host) {
        let name = network_name(network);
        let (v4, v6) = (ipv4(network, host.number()), ipv6(network, host.number()));
        let _ = writeln!(
            text,
            "address add {v4}/24 brd + dev {name}\naddress add {v6}/64 dev {name} nodad\nlink set {name} up"
        );
    }
    if let Some((network, gateway)) = shape.gateway(host) {
        let (v4, v6) = (ipv4(network, gateway), ipv6(network, gateway));
        let name = network_name(network);
        let _ = writeln!(text, "route add default via {v4}\nroute add default via {v6} dev {name}");
    }
    if let Some((far, near)) = shape.far_cluster_network(host) {
        let (v4, v6) = (ipv4(near, ROUTER_HOST), ipv6(near, ROUTER_HOST));
        let name = network_name(near);
        let _ = writeln!(
            text,
            "route add {}/24 via {v4}\nroute add {}/64 via {v6} dev {name}",
            ipv4(far, 0),
            ipv6(far, 0)
        );
    }
    text
}

fn apply_settings(name: &str, groups: &[&[(&str, &str)]]) -> Result<()> {
    namespace::enter(name, || {
        for (key, value) in groups.iter().copied().flatten() {
            let path = format!("/proc/sys/net/{key}");
            std::fs::write(&path, value).with_context(|| format!("{path} can't be set in {name}"))?;
        }
        Ok(())
    })
}

/// Runs lines of `ip` commands, in a namespace if one is given.
pub fn batch(name: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = name {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow::anyhow!("the command `ip` is missing: install iproute2 (apt-get install iproute2)")
        }
        _ => anyhow::anyhow!("ip can't be started: {error}"),
    })?;
    if let Some(mut input) = child.stdin.take() {
        // If ip stops reading, its own message says why.
        let _ = input.write_all(lines.as_bytes());
    }
    let output = child.wait_with_output().context("ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip failed{}: {}", in_namespace(name), complaint.trim());
    Ok(())
}

fn in_namespace(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" in namespace {name}"))
}

const _: () = assert!(CLIENT_HOST < 255 && ROUTER_HOST < 255);

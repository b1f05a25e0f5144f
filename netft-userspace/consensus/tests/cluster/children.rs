//! Nodes that are processes of their own, so that they can be killed. This test program starts itself; the child reads orders
//! from standard input and writes what happened to standard output, a line each.

use crate::rig::{CLUSTER, Folder, keyring, node, place, vip};
use netft_consensus::{Consensus, NoFence, Settings};
use netft_core::ownership::{Entry, Seen, Standing, VipSettings};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Between two writes: there are numbers for so many only.
const PACE: Duration = Duration::from_millis(20);
const ARGUMENTS: &str = "NETFT_CONSENSUS_CHILD";

/// A process with a node in it.
pub struct Process {
    child: Child,
    orders: ChildStdin,
    pub lines: mpsc::Receiver<String>,
}

impl Process {
    /// `limit`: so many bytes may a file have, for a disk that is full.
    pub fn start(folder: &Folder, id: u16, ports: &[u16], first_vip: u16, limit: u64) -> Self {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let arguments = format!("{} {id} {} {first_vip} {limit}", folder.0.display(), ports.join(","));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "children::a_child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, orders, lines }
    }

    pub fn order(&mut self, order: &str) {
        // It may have been killed.
        let _ = writeln!(self.orders, "{order}").and_then(|()| self.orders.flush());
    }

    /// SIGKILL, while it does whatever it does. Gives what it had still said.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().collect()
    }

    pub fn wait_for(&self, prefix: &str) -> String {
        let end = Instant::now() + crate::rig::SOON;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("waited in vain for {prefix:?}"));
            assert!(!line.starts_with("refused"), "{line}");
            if line.starts_with(prefix) {
                return line;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "started by other tests, as a process of its own"]
fn a_child() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    // After what the test harness has begun to say.
    println!();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(&arguments));
}

async fn run(arguments: &str) {
    let mut words = arguments.split(' ');
    let folder = Folder(words.next().unwrap().into());
    let id: u16 = words.next().unwrap().parse().unwrap();
    let ports: Vec<u16> = words.next().unwrap().split(',').map(|port| port.parse().unwrap()).collect();
    let mut next_vip: u16 = words.next().unwrap().parse().unwrap();
    let limit: u64 = words.next().unwrap().parse().unwrap();
    if limit > 0 {
        limit_files(limit);
    }
    let address = |id: u16| SocketAddr::from(([127, 0, 0, 1], ports[usize::from(id) - 1]));
    let count = u16::try_from(ports.len()).unwrap();
    let settings = Settings {
        own: node(id),
        cluster_id: CLUSTER,
        keyring: keyring("a secret for processes, long enough"),
        folder: folder.0.join(id.to_string()),
        founders: (1..=count).map(|id| (node(id), place(Standing::Active))).collect(),
        detection_ns: 5_000_000,
        snapshot_entries: 50,
        applied: 0,
        owned: Vec::new(),
    };
    // The parent has the folder.
    std::mem::forget(folder);
    let listener = tokio::net::TcpListener::bind(address(id)).await.unwrap();
    let consensus = match Consensus::start(settings, listener, Box::new(NoFence)).await {
        Ok(consensus) => consensus,
        Err(error) => return println!("refused {error}"),
    };
    for peer in (1..=count).filter(|peer| *peer != id) {
        consensus.set_address(node(peer), Some(address(peer)));
    }
    println!("started");
    let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let (mut writes, mut told) = (false, false);
    loop {
        let order = tokio::time::timeout(Duration::from_millis(2), orders.recv()).await;
        match order.ok() {
            Some(None) => return,
            Some(Some(order)) => {
                let (verb, rest) = order.split_once(' ').unwrap_or((order.as_str(), ""));
                match verb {
                    "down" => consensus.peer(node(rest.parse().unwrap()), Seen::Down),
                    "up" => consensus.peer(node(rest.parse().unwrap()), Seen::Up),
                    "write" => writes = true,
                    "rest" => writes = false,
                    "dump" => {
                        let state = consensus.state();
                        let vips: Vec<_> = state.vips.keys().map(|vip| vip.get().to_string()).collect();
                        println!("state {} {}", state.applied.index, vips.join(","));
                    }
                    _ => panic!("{order}"),
                }
            }
            None => {}
        }
        let status = consensus.status();
        if let Some(trouble) = status.trouble.filter(|_| !told) {
            told = true;
            println!("trouble {trouble}");
        }
        if writes && status.leader == Some(node(id)) {
            println!("try {next_vip}");
            let settings = VipSettings { preferred: vec![node(255); 255], ..VipSettings::default() };
            if let Ok(log) = consensus.write(Entry::Vip(vip(next_vip), settings)).await {
                println!("done {next_vip} {}", log.index);
            }
            next_vip += 1;
            tokio::time::sleep(PACE).await;
        }
    }
}

/// Files can't grow beyond `limit` from now on: what a full disk does, without root's rights.
fn limit_files(limit: u64) {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: a signal is ignored, and a limit of this process is set from a structure that outlives the call.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

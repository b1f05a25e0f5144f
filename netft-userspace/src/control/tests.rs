use super::*;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::sync::{broadcast, mpsc};

/// A server in a thread of its own that echoes the request's name; ends with the returned sender.
struct Daemon {
    socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let socket = std::env::temp_dir().join(format!("netft-{name}-{}/control.sock", std::process::id()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = socket.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (asked, mut requests) = mpsc::channel(4);
                let server = Server::bind(&path, None, asked).unwrap();
                let (events, _) = broadcast::channel(4);
                ready.send(()).unwrap();
                let serve = async {
                    while let Some(Asked { request, reply }) = requests.recv().await {
                        let follow = matches!(request, Request::Events { follow: true, .. });
                        let _ = reply.send((
                            r#"{"version":1,"done":true}"#.into(),
                            follow.then(|| events.subscribe()),
                        ));
                        if follow {
                            let _ = events.send(r#"{"version":1,"events":[]}"#.into());
                        }
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
                drop(server);
            });
        });
        is_ready.recv().unwrap();
        Self { socket, stop: Some(stop), thread: Some(thread) }
    }

    fn say(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        reply
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(!self.socket.exists(), "the socket is removed at the end");
        let _ = std::fs::remove_dir(self.socket.parent().unwrap_or(Path::new("/nonexistent")));
    }
}

#[test]
fn a_request_gets_one_line() {
    let daemon = Daemon::start("ask");
    assert_eq!(std::fs::metadata(&daemon.socket).unwrap().permissions().mode() & 0o777, 0o660);
    let mut client = Client::connect(&daemon.socket).unwrap();
    for request in [Request::Status, Request::Routes { history: true, only: None }] {
        assert_eq!(client.ask(request).unwrap()["done"], true);
    }
}

#[test]
fn followers_get_line_after_line() {
    let daemon = Daemon::start("follow");
    let mut client = Client::connect(&daemon.socket).unwrap();
    client.send(Request::Events { since_unix_ns: None, follow: true }).unwrap();
    assert_eq!(client.next_line().unwrap().unwrap()["done"], true);
    assert!(client.next_line().unwrap().unwrap()["events"].is_array());
}

#[test]
fn nonsense_gets_a_sentence() {
    let daemon = Daemon::start("nonsense");
    for (line, sentence) in [
        ("hello\n".to_owned(), "is not JSON"),
        ("{\"request\":\"status\"}\n".to_owned(), "version 1 of the control protocol"),
        ("{\"version\":2,\"request\":\"status\"}\n".to_owned(), "version 1 of the control protocol"),
        ("{\"version\":1,\"request\":\"make-coffee\"}\n".to_owned(), "is not understood"),
        ("{\"version\":1}".to_owned(), "one line of at most"),
        ("x".repeat(REQUEST_MAX + 1), "one line of at most"),
    ] {
        let reply = daemon.say(&line);
        assert!(reply.contains(sentence) && reply.contains("\"error\""), "{line:.40} got {reply}");
    }
}

#[tokio::test]
async fn a_living_daemons_socket_is_refused_and_a_dead_ones_replaced() {
    let daemon = Daemon::start("second");
    let (asked, _requests) = mpsc::channel(1);
    let error = Server::bind(&daemon.socket, None, asked.clone()).unwrap_err().to_string();
    assert!(error.contains("another netftd answers"), "{error}");

    let dead = daemon.socket.with_file_name("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    drop(Server::bind(&dead, None, asked.clone()).unwrap());

    let file = daemon.socket.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    let error = Server::bind(&file, None, asked.clone()).unwrap_err().to_string();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    std::fs::remove_file(&file).unwrap();

    let error = Server::bind(&dead, Some("no-such-group"), asked).unwrap_err().to_string();
    assert!(error.contains("no group \"no-such-group\""), "{error}");
}

#[test]
fn no_daemon_is_one_sentence() {
    let error = Client::connect(Path::new("/nonexistent/control.sock")).unwrap_err().to_string();
    assert!(error.starts_with("netftd isn't running") && error.contains("systemctl start netftd"), "{error}");
}

#[test]
fn only_root_replaces_the_cluster_secret() {
    for abort in [false, true] {
        let request = Request::RotateKey { abort };
        assert_eq!(request.permit(0), Ok(()));
        assert!(request.permit(1000).unwrap_err().contains("only root"));
    }
    for request in [Request::Status, Request::Reload { dry_run: false }] {
        assert_eq!(request.permit(1000), Ok(()));
    }
}

#[test]
fn who_asks_is_known_from_the_kernel() {
    let daemon = Daemon::start("who");
    let reply = daemon.say("{\"version\":1,\"request\":\"rotate-key\",\"abort\":false}\n");
    // /proc/self belongs to the effective user.
    let us = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    assert_eq!(reply.contains("done"), us == 0, "{reply}");
    assert_eq!(reply.contains("only root"), us != 0, "{reply}");
}

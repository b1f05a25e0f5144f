//! The answering end: accepts, reads and writes; what to answer is decided in the daemon's loop.

use super::{CONNECTIONS_MAX, Envelope, REQUEST_MAX, Request, VERSION};
use crate::listing::{Failure, Versioned};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;

/// How long a connection may be silent, or a reader not read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes an answer: one line without its end, and for `follow` where more will come from.
pub type Reply = oneshot::Sender<(String, Option<broadcast::Receiver<Arc<str>>>)>;

/// A request that waits for the daemon's answer.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// Takes the answer.
    pub reply: Reply,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A living daemon has it.
    #[error("another netftd answers on {} already: stop it first, or give this one its own control.socket and paths.pins", .0.display())]
    Running(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket: remove it, or set control.socket", .0.display())]
    NotASocket(PathBuf),
    /// No such group.
    #[error(
        "control.group: there is no group {0:?} on this host: create it with `groupadd {0}`, or remove the key"
    )]
    Group(String),
    /// The kernel refused.
    #[error("the control socket {} can't be made ({source}): check its folder, or set control.socket", .socket.display())]
    Bind {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The listening socket. Removes its file when dropped.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    /// Inode of our socket file: only that one is removed.
    inode: u64,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Makes the socket with mode 0660 for `group`; a dead daemon's is replaced in one step, a living one's refused.
    /// Requests go to `asked`. Must be called within a tokio runtime.
    pub fn bind(socket: &Path, group: Option<&str>, asked: mpsc::Sender<Asked>) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind { socket: socket.to_owned(), source };
        let gid = match group {
            Some(name) => Some(group_id(name).ok_or_else(|| ServerError::Group(name.to_owned()))?),
            None => None,
        };
        Self::check_free(socket)?;
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        // Under another name first, so that nobody meets a socket with the wrong permissions or none listening.
        let mut temporary = socket.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let placed = (|| {
            std::os::unix::fs::chown(&temporary, None, gid)?;
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660))?;
            let inode = std::fs::metadata(&temporary)?.ino();
            std::fs::rename(&temporary, socket)?;
            Ok(inode)
        })();
        let inode = placed.map_err(|source| {
            let _ = std::fs::remove_file(&temporary);
            failed(source)
        })?;
        let accepting = tokio::spawn(accept(listener, asked));
        Ok(Self { socket: socket.to_owned(), inode, accepting })
    }

    /// Whether a daemon can have `socket`: nobody listens there.
    pub fn check_free(socket: &Path) -> Result<(), ServerError> {
        match std::os::unix::net::UnixStream::connect(socket) {
            Ok(_) => Err(ServerError::Running(socket.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                use std::os::unix::fs::FileTypeExt;
                // A file that is no socket refuses connections as well.
                match std::fs::symlink_metadata(socket) {
                    Ok(metadata) if !metadata.file_type().is_socket() => {
                        Err(ServerError::NotASocket(socket.to_owned()))
                    }
                    _ => Ok(()),
                }
            }
            Err(source) => Err(ServerError::Bind { socket: socket.to_owned(), source }),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        if std::fs::metadata(&self.socket).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

/// The number of a group by its name (`group(5)`).
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let mut fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.find(|f| f.first() == Some(&name))?.get(2)?.parse().ok()
}

async fn accept(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: come back when some may be free.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asked = asked.clone();
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(async move {
                    let _ = converse(stream, asked).await;
                    drop(place);
                });
            }
            Err(_) => {
                let text = format!(
                    "netftd serves {CONNECTIONS_MAX} connections already: end a `netft events --follow`"
                );
                // One try, not waiting: a full house must not be held up by whom it turns away.
                let _ = stream.try_write(format!("{}\n", refusal(&text)).as_bytes());
            }
        }
    }
}

/// Reads requests and writes answers until the other end leaves.
async fn converse(stream: UnixStream, asked: mpsc::Sender<Asked>) -> std::io::Result<()> {
    // Who connected (SO_PEERCRED, unix(7)): asked of the kernel, once.
    let user = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(REQUEST_MAX as u64);
        match timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
        if line.last() != Some(&b'\n') {
            let text = format!("a request is one line of at most {REQUEST_MAX} bytes");
            return send(&mut write, &refusal(&text)).await;
        }
        let request = match parse(&line).and_then(|request| request.permit(user).map(|()| request)) {
            Ok(request) => request,
            Err(text) => {
                send(&mut write, &refusal(&text)).await?;
                continue;
            }
        };
        let (reply, answer) = oneshot::channel();
        if asked.send(Asked { request, reply }).await.is_err() {
            return send(&mut write, &refusal("netftd is stopping")).await;
        }
        let Ok((text, more)) = answer.await else {
            return send(&mut write, &refusal("netftd is stopping")).await;
        };
        send(&mut write, &text).await?;
        if let Some(more) = more {
            return follow(&mut read, &mut write, more).await;
        }
    }
}

/// Passes events on until the reader leaves or falls too far behind.
async fn follow(
    read: &mut (impl AsyncReadExt + Unpin),
    write: &mut (impl AsyncWriteExt + Unpin),
    mut more: broadcast::Receiver<Arc<str>>,
) -> std::io::Result<()> {
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            event = more.recv() => match event {
                Ok(text) => send(write, &text).await?,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    let text = format!("{count} events were not read in time: ask again with --since");
                    return send(write, &refusal(&text)).await;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            // Whatever arrives (or the end) means that nobody follows any more.
            _ = read.read(&mut nothing) => return Ok(()),
        }
    }
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), text: &str) -> std::io::Result<()> {
    let line = format!("{text}\n");
    timeout(PATIENCE, write.write_all(line.as_bytes())).await.unwrap_or(Err(ErrorKind::TimedOut.into()))
}

/// What a line asks for, or the sentence that answers it.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    let value: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| format!("the request is not JSON: {error}"))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        _ => {
            return Err(format!(
                "this netftd speaks version {VERSION} of the control protocol: use the netft that came with it"
            ));
        }
    }
    let envelope: Envelope =
        serde_json::from_value(value).map_err(|error| format!("the request is not understood: {error}"))?;
    Ok(envelope.request)
}

/// An error as a reply line.
pub(crate) fn refusal(text: &str) -> String {
    let failure = Versioned::new(Failure { error: text.to_owned() });
    serde_json::to_string(&failure).unwrap_or_else(|_| "{\"version\":1,\"error\":\"unprintable\"}".to_owned())
}

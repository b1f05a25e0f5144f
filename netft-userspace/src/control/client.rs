//! The asking end: blocking, for the command line.

use super::{Envelope, Request, VERSION};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "netftd isn't running (nobody answers on {}): start it with `systemctl start netftd`, or name its socket with --socket",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// Not for us.
    #[error("no permission to use {}: run this as root or as a member of the group in control.group", .0.display())]
    Permission(PathBuf),
    /// The conversation broke off.
    #[error("netftd on {} broke off ({source}): see its log with `journalctl -u netftd`", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// An answer that makes no sense here.
    #[error("netftd on {} answered in a way this netft doesn't understand ({why}): use the netft of its version", .socket.display())]
    Strange {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    lines: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon's socket.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning(socket.to_owned()),
            ErrorKind::PermissionDenied => ClientError::Permission(socket.to_owned()),
            _ => ClientError::Broken { socket: socket.to_owned(), source },
        })?;
        Ok(Self { socket: socket.to_owned(), lines: BufReader::new(stream) })
    }

    /// Sends a request; its answer (or the first of many) comes with `next`.
    pub fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let follow = matches!(request, Request::Events { follow: true, .. });
        let mut line = serde_json::to_vec(&Envelope { version: VERSION, request })
            .map_err(|error| self.strange(error.to_string()))?;
        line.push(b'\n');
        let patience = (!follow).then_some(PATIENCE);
        let stream = self.lines.get_mut();
        let sent = stream.set_read_timeout(patience).and_then(|()| stream.write_all(&line));
        sent.map_err(|source| self.broken(source))
    }

    /// The next line of the answer as it came; `None` when the daemon ended it.
    pub fn next_line(&mut self) -> Result<Option<Value>, ClientError> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(source) => return Err(self.broken(source)),
        }
        let value: Value = serde_json::from_str(&line).map_err(|error| self.strange(error.to_string()))?;
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            return Err(ClientError::Refused(error.to_owned()));
        }
        Ok(Some(value))
    }

    /// Asks and waits for the one answer.
    pub fn ask(&mut self, request: Request) -> Result<Value, ClientError> {
        self.send(request)?;
        let ended = std::io::Error::from(ErrorKind::UnexpectedEof);
        self.next_line()?.ok_or_else(|| self.broken(ended))
    }

    /// An answer as the type it should have.
    pub fn read<T: DeserializeOwned>(&self, value: &Value) -> Result<T, ClientError> {
        T::deserialize(value).map_err(|error| self.strange(error.to_string()))
    }

    fn broken(&self, source: std::io::Error) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source }
    }

    fn strange(&self, why: String) -> ClientError {
        ClientError::Strange { socket: self.socket.clone(), why }
    }
}

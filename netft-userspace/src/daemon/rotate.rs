//! `netft key rotate`: what the shell does of it. What happens when is decided in [`netft_core::membership`].

use super::{Daemon, Note};
use crate::config::{check_writable, keep_secret};
use crate::listing::KeyRotate;
use netft_core::membership::{Keep, KeyFile, NotKept};
use tokio::task::JoinHandle;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Another secret.
    Start,
    /// The old one after all.
    Abort,
}

impl Daemon {
    /// Starts or aborts a rotation. The error is a sentence.
    pub(super) async fn rotate_key(&mut self, wish: Wish) -> Result<KeyRotate, String> {
        let secret = match wish {
            Wish::Start => {
                self.check_key_file().map_err(|failure| format!("{failure}\nnothing was started"))?;
                let mut random = [0; 32];
                getrandom::fill(&mut random)
                    .map_err(|error| format!("the kernel gives no random numbers ({error}): see `dmesg`"))?;
                self.membership.rotate_secret(random).map_err(|error| error.to_string())?
            }
            Wish::Abort => {
                self.membership.abort_rotation().map_err(|error| error.to_string())?;
                self.membership.secret()
            }
        };
        self.drain().await;
        // Who asks hears whether this node could write it.
        self.finish_writing().await;
        match &self.secret_failure {
            Some(failure) => Err(format!("{failure}\nnothing was changed")),
            None => Ok(KeyRotate {
                file: self.config.key_file.display().to_string(),
                secret: secret.to_string(),
                rotation: self.rotation(),
            }),
        }
    }

    /// Looks whether another secret could be written down, and lets peers know. The error is a sentence, and told once.
    pub(super) fn check_key_file(&mut self) -> Result<(), String> {
        let checked = check_writable(&self.config.key_file).map_err(|error| error.to_string());
        if let Err(text) = &checked
            && self.secret_failure.as_ref() != Some(text)
        {
            let text = format!("{text}: `netft key rotate` is refused on every node until then");
            self.note(Note::Warning, "daemon", "secret", &text);
        }
        let key_file = if checked.is_ok() { KeyFile::Writable } else { KeyFile::Fixed };
        self.secret_failure = checked.clone().err();
        self.membership.set_key_file(crate::sys::boottime(), key_file);
        checked
    }

    /// Writes down what a rotation needs. A disk may take its time, so that is done on a thread of its own;
    /// [`Self::secret_kept`] must have the outcome.
    pub(super) fn keep_secret(&mut self, keep: Keep) {
        let key_file = self.config.key_file.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            keep_secret(&key_file, &keep).map_err(|error| error.to_string())
        }));
    }

    /// It is on the disk, or can't be: that is said once.
    pub(super) fn secret_kept(&mut self, kept: Result<(), String>) {
        let failure = kept.err();
        if let Some(text) = failure.as_ref().filter(|_| self.secret_failure != failure) {
            self.note(Note::Warning, "daemon", "secret", &text.clone());
        }
        let (key_file, result) = match failure {
            Some(_) => (KeyFile::Fixed, Err(NotKept)),
            None => (KeyFile::Writable, Ok(())),
        };
        self.secret_failure = failure;
        let now = crate::sys::boottime();
        self.membership.set_key_file(now, key_file);
        self.membership.secret_kept(now, result);
    }

    /// Waits for what is being written now, and follows it.
    pub(super) async fn finish_writing(&mut self) {
        if self.writing.is_some() {
            let kept = written(&mut self.writing).await;
            self.secret_kept(kept);
            self.drain().await;
        }
    }
}

/// What is being written down, on its thread.
pub(super) type Writing = JoinHandle<Result<(), String>>;

/// Waits until it is; for ever if there is nothing. Nothing is lost if it is given up and called again.
pub(super) async fn written(writing: &mut Option<Writing>) -> Result<(), String> {
    let Some(thread) = writing else { return std::future::pending().await };
    let outcome = thread.await;
    *writing = None;
    outcome.unwrap_or_else(|error| Err(format!("the secret couldn't be written: {error}")))
}

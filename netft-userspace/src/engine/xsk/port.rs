//! One AF_XDP socket with its packet buffers, as its worker uses it: buffers never leave this type, callers only get to
//! see what is in them while a call lasts. So no caller can lose one.

use super::frames::{Frame, Frames, Place};

/// The four rings of a socket and its packet memory. The kernel's in earnest, a model in tests.
pub trait Rings {
    /// Offers buffers to receive into; says how many, from the first on, were taken.
    fn fill(&mut self, frames: &[Frame]) -> usize;
    /// Takes up to [`BATCH`] received frames; [`Rings::received`] names them until the next call.
    fn receive(&mut self) -> usize;
    /// The buffer of received frame `index`. `None` if the kernel named none of ours.
    fn received(&self, index: usize) -> Option<Frame>;
    /// Lets `read` see, and change, received frame `index`, whose buffer is one of ours.
    fn read<T>(&mut self, index: usize, read: impl FnOnce(&mut [u8]) -> T) -> T;
    /// Lets `write` put something into a buffer.
    fn write<T>(&mut self, frame: Frame, write: impl FnOnce(&mut [u8]) -> T) -> T;
    /// Hands the first `length` bytes of a buffer to the kernel to send; `false` if the ring is full.
    fn transmit(&mut self, frame: Frame, length: usize) -> bool;
    /// Has the kernel send what is in the transmit ring. It may stop after a number of frames.
    fn kick(&mut self);
    /// How many frames are in the transmit ring that the kernel hasn't taken yet.
    fn waiting(&mut self) -> u32;
    /// Takes up to [`BATCH`] buffers whose frames were sent; [`Rings::completed`] names them until the next call.
    fn complete(&mut self) -> usize;
    /// Completed buffer `index`. `None` if the kernel named none of ours.
    fn completed(&self, index: usize) -> Option<Frame>;
}

/// Frames that are moved between two looks at anything else.
pub const BATCH: usize = 64;
/// Kicks per flush that take nothing out of the ring before giving up: the frames stay and go with the next flush.
const VAIN_KICKS: u32 = 2;

/// There is no room for another frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The socket.
#[derive(Debug)]
pub struct Port<R> {
    rings: R,
    frames: Frames,
    /// Buffers that should be with the kernel to receive into.
    fill_target: u32,
    unsent: bool,
    /// Frames since the last flush.
    queued: usize,
}

impl<R: Rings> Port<R> {
    /// `total` buffers, of which `fill_target` are for receiving. Fills the fill ring.
    pub fn new(rings: R, total: u32, fill_target: u32) -> Self {
        let mut this = Self { rings, frames: Frames::new(total), fill_target, unsent: false, queued: 0 };
        this.refill();
        this
    }

    /// Gives each received frame to `each`, at most [`BATCH`] of them, and its buffer back to the kernel. Says how many.
    pub fn receive(&mut self, mut each: impl FnMut(&mut [u8])) -> usize {
        let received = self.rings.receive();
        for index in 0..received {
            let Some(frame) = self.rings.received(index) else {
                // Counted as one that we don't have.
                let _ = self.frames.give_back(Frame::MAX, Place::Fill);
                continue;
            };
            if self.frames.give_back(frame, Place::Fill) {
                self.rings.read(index, &mut each);
                self.frames.put(frame, Place::Free);
            }
        }
        self.refill();
        received
    }

    /// Queues one frame, which `write` puts into a buffer; it says how long it is, or that there is none after all.
    /// It leaves with the next [`Self::flush`].
    pub fn send(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Result<(), Full> {
        if self.frames.count(Place::Free) == 0 {
            self.reclaim();
        }
        let frame = self.frames.take().ok_or(Full)?;
        let length = self.rings.write(frame, write);
        let sent = length.map(|length| self.rings.transmit(frame, length));
        self.frames.put(frame, if sent == Some(true) { Place::Transmit } else { Place::Free });
        self.unsent |= sent == Some(true);
        self.queued += usize::from(sent == Some(true));
        if sent == Some(false) { Err(Full) } else { Ok(()) }
    }

    /// Has everything queued sent.
    pub fn flush(&mut self) {
        self.queued = 0;
        if !self.unsent {
            return;
        }
        let mut vain = 0;
        let mut waiting = self.rings.waiting();
        while waiting > 0 && vain < VAIN_KICKS {
            self.rings.kick();
            // The kernel stops when it has nowhere to say what it sent.
            self.reclaim();
            let left = self.rings.waiting();
            vain = if left < waiting { 0 } else { vain + 1 };
            waiting = left;
        }
        self.unsent = waiting > 0;
        self.reclaim();
    }

    /// Whether frames are queued that the kernel hasn't taken.
    pub fn is_unsent(&self) -> bool {
        self.unsent
    }

    /// Frames that were queued since the last [`Self::flush`].
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Where the buffers are.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The rings.
    pub fn rings(&self) -> &R {
        &self.rings
    }

    /// Ends it; all buffers go with the rings.
    #[cfg(test)]
    pub fn close(self) -> R {
        self.rings
    }

    /// Takes back what was sent.
    fn reclaim(&mut self) {
        loop {
            let completed = self.rings.complete();
            for index in 0..completed {
                let frame = self.rings.completed(index).unwrap_or(Frame::MAX);
                if self.frames.give_back(frame, Place::Transmit) {
                    self.frames.put(frame, Place::Free);
                }
            }
            if completed < BATCH {
                return;
            }
        }
    }

    /// Keeps the fill ring full.
    fn refill(&mut self) {
        while self.frames.count(Place::Fill) < self.fill_target {
            let mut batch = [0; BATCH];
            let wanted = (self.fill_target - self.frames.count(Place::Fill)) as usize;
            let mut count = 0;
            while count < wanted.min(BATCH)
                && let Some(frame) = self.frames.take()
            {
                batch[count] = frame;
                count += 1;
            }
            let taken = self.rings.fill(&batch[..count]);
            for (index, frame) in batch[..count].iter().enumerate() {
                self.frames.put(*frame, if index < taken { Place::Fill } else { Place::Free });
            }
            if taken < count || count == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

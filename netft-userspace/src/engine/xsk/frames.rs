//! Where every packet buffer of a socket is: in exactly one place at any time, so none can leak unseen.

/// A packet buffer by its number.
pub type Frame = u32;

/// Who has a buffer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody.
    Free,
    /// The kernel, to receive into: it is in the fill ring, or in the receive ring and not taken yet.
    Fill,
    /// The kernel, to transmit: it is in the transmit ring, on its way, or in the completion ring and not taken yet.
    Transmit,
    /// We, while one call works on it.
    Ours,
}

/// All buffers of one socket. Allocates nothing after [`Frames::new`].
#[derive(Debug)]
pub struct Frames {
    places: Box<[Place]>,
    free: Vec<Frame>,
    counts: [u32; 4],
    strays: u64,
}

impl Frames {
    /// `count` free buffers.
    pub fn new(count: u32) -> Self {
        Self {
            places: (0..count).map(|_| Place::Free).collect(),
            // The lowest number is taken first.
            free: (0..count).rev().collect(),
            counts: [count, 0, 0, 0],
            strays: 0,
        }
    }

    /// How many are in `place`.
    pub fn count(&self, place: Place) -> u32 {
        self.counts[place as usize]
    }

    /// How many there are.
    #[cfg(test)]
    pub fn total(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    /// Buffers that the kernel gave back though it didn't have them: never, unless the kernel or this program is
    /// mistaken. Such a buffer is left where it is.
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// Takes a free buffer to work on.
    pub fn take(&mut self) -> Option<Frame> {
        let frame = self.free.pop()?;
        self.places[frame as usize] = Place::Ours;
        self.count_move(Place::Free, Place::Ours);
        Some(frame)
    }

    /// The kernel gives back what it had in `place`; says whether it is right about that.
    #[must_use]
    pub fn give_back(&mut self, frame: Frame, place: Place) -> bool {
        let right = self.places.get(frame as usize) == Some(&place) && place != Place::Free;
        if right {
            self.places[frame as usize] = Place::Ours;
            self.count_move(place, Place::Ours);
        } else {
            self.strays += 1;
        }
        right
    }

    /// Puts a buffer that we work on elsewhere.
    ///
    /// # Panics
    /// If we don't have it: that would be two owners of one buffer.
    pub fn put(&mut self, frame: Frame, place: Place) {
        assert_eq!(self.places[frame as usize], Place::Ours, "buffer {frame} has another owner");
        self.places[frame as usize] = place;
        self.count_move(Place::Ours, place);
        if place == Place::Free {
            self.free.push(frame);
        }
    }

    fn count_move(&mut self, from: Place, to: Place) {
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
    }

    /// Counts again, buffer by buffer, and compares: for tests.
    #[cfg(test)]
    pub fn check(&self) {
        for place in [Place::Free, Place::Fill, Place::Transmit, Place::Ours] {
            let found = self.places.iter().filter(|found| **found == place).count();
            assert_eq!(found, self.count(place) as usize, "{place:?}");
        }
        assert_eq!(self.counts.iter().sum::<u32>(), self.total());
        let mut free = self.free.clone();
        free.sort_unstable();
        free.dedup();
        assert_eq!(free.len(), self.count(Place::Free) as usize, "the free list has each buffer once");
        assert!(free.iter().all(|frame| self.places[*frame as usize] == Place::Free));
    }
}

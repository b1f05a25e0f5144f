//! A socket against a model of the kernel: over a million random operations, no buffer is lost, none has two owners,
//! and every frame arrives as it was sent.

use super::*;
use std::collections::VecDeque;

const SIZE: usize = 16;
/// Frames that the kernel sends per kick, as in copy mode.
const BUDGET: usize = 32;

/// xorshift64*, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The kernel's side: rings with their sizes, and frames on their way.
struct Model {
    memory: Vec<[u8; SIZE]>,
    ring_size: usize,
    fill: VecDeque<Frame>,
    receive: VecDeque<(Frame, usize)>,
    transmit: VecDeque<(Frame, usize)>,
    flying: Vec<Frame>,
    complete: VecDeque<Frame>,
    batch: Vec<(Frame, usize)>,
    done: Vec<Frame>,
    /// What left, in order.
    wire: Vec<Vec<u8>>,
    /// What arrived and wasn't dropped for want of a buffer, in order.
    arrived: VecDeque<Vec<u8>>,
    /// Kicks do nothing, as when a device is down.
    stuck: bool,
}

impl Model {
    fn new(buffers: u32, ring_size: usize) -> Self {
        Self {
            memory: vec![[0; SIZE]; buffers as usize],
            ring_size,
            fill: VecDeque::new(),
            receive: VecDeque::new(),
            transmit: VecDeque::new(),
            flying: Vec::new(),
            complete: VecDeque::new(),
            batch: Vec::new(),
            done: Vec::new(),
            wire: Vec::new(),
            arrived: VecDeque::new(),
            stuck: false,
        }
    }

    fn held(&self) -> usize {
        self.fill.len() + self.receive.len() + self.transmit.len() + self.flying.len() + self.complete.len()
    }

    fn arrive(&mut self, bytes: &[u8]) {
        if self.receive.len() < self.ring_size
            && let Some(frame) = self.fill.pop_front()
        {
            self.memory[frame as usize][..bytes.len()].copy_from_slice(bytes);
            self.receive.push_back((frame, bytes.len()));
            self.arrived.push_back(bytes.to_vec());
        }
    }

    /// Some frame that was on its way is done, in any order.
    fn land(&mut self, random: &mut Random) {
        if !self.flying.is_empty() && self.complete.len() < self.ring_size {
            let at = usize::try_from(random.below(self.flying.len() as u64)).unwrap();
            let frame = self.flying.swap_remove(at);
            self.complete.push_back(frame);
        }
    }
}

impl Rings for Model {
    fn fill(&mut self, frames: &[Frame]) -> usize {
        // All or nothing, as libxdp does it.
        if self.fill.len() + frames.len() > self.ring_size {
            return 0;
        }
        self.fill.extend(frames);
        frames.len()
    }

    fn receive(&mut self) -> usize {
        let count = self.receive.len().min(BATCH);
        self.batch = self.receive.drain(..count).collect();
        count
    }

    fn received(&self, index: usize) -> Option<Frame> {
        let (frame, _) = self.batch[index];
        self.memory.get(frame as usize).map(|_| frame)
    }

    fn read<T>(&mut self, index: usize, read: impl FnOnce(&mut [u8]) -> T) -> T {
        let (frame, length) = self.batch[index];
        read(&mut self.memory[frame as usize][..length])
    }

    fn write<T>(&mut self, frame: Frame, write: impl FnOnce(&mut [u8]) -> T) -> T {
        write(&mut self.memory[frame as usize])
    }

    fn transmit(&mut self, frame: Frame, length: usize) -> bool {
        let room = self.transmit.len() < self.ring_size;
        if room {
            self.transmit.push_back((frame, length));
        }
        room
    }

    fn kick(&mut self) {
        for _ in 0..BUDGET {
            // The kernel reserves the place where it will say that a frame was sent before it takes the frame.
            if self.stuck || self.flying.len() + self.complete.len() >= self.ring_size {
                return;
            }
            let Some((frame, length)) = self.transmit.pop_front() else { return };
            self.wire.push(self.memory[frame as usize][..length].to_vec());
            self.flying.push(frame);
        }
    }

    fn waiting(&mut self) -> u32 {
        u32::try_from(self.transmit.len()).unwrap()
    }

    fn complete(&mut self) -> usize {
        let count = self.complete.len().min(BATCH);
        self.done = self.complete.drain(..count).collect();
        count
    }

    fn completed(&self, index: usize) -> Option<Frame> {
        Some(self.done[index]).filter(|frame| (*frame as usize) < self.memory.len())
    }
}

fn payload(random: &mut Random) -> Vec<u8> {
    let length = usize::try_from(1 + random.below(SIZE as u64)).unwrap();
    (0..length).map(|_| random.next().to_le_bytes()[3]).collect()
}

/// Every buffer has one owner, and both sides agree on which.
fn check(port: &Port<Model>) {
    let frames = port.frames();
    assert_eq!(frames.count(Place::Ours), 0, "nothing is kept between calls");
    let kernel = frames.count(Place::Fill) + frames.count(Place::Transmit);
    assert_eq!(kernel as usize, port.rings().held());
    assert_eq!(frames.strays(), 0);
    assert_eq!(kernel + frames.count(Place::Free), frames.total());
}

/// Sends and receives everything that is under way.
fn settle(port: &mut Port<Model>, random: &mut Random) {
    port.rings.stuck = false;
    for _ in 0..10_000 {
        port.flush();
        port.rings.land(random);
        let mut arrived = std::mem::take(&mut port.rings.arrived);
        let received = port.receive(|bytes| assert_eq!(Some(&*bytes), arrived.pop_front().as_deref()));
        port.rings.arrived = arrived;
        port.reclaim();
        if received == 0 && port.frames().count(Place::Transmit) == 0 {
            return;
        }
    }
    panic!("it doesn't settle: {:?}", port.frames());
}

#[test]
fn no_frame_leaks_in_a_million_random_operations() {
    let mut operations = 0u64;
    let mut full = 0u64;
    let mut dropped = 0u64;
    for seed in 1u64.. {
        let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // More buffers than ring entries, and fewer.
        let ring_size = 1usize << (2 + random.below(6));
        let fill_target = u32::try_from(1 + random.below(ring_size as u64)).unwrap();
        let total = fill_target + u32::try_from(1 + random.below(2 * ring_size as u64)).unwrap();
        let mut port = Port::new(Model::new(total, ring_size), total, fill_target);
        assert_eq!(port.frames().count(Place::Fill), fill_target, "full from the start");
        let mut sent = Vec::new();
        for _ in 0..10_000 {
            operations += 1;
            match random.below(12) {
                0..=3 => {
                    let bytes = payload(random);
                    let before = port.rings.arrived.len();
                    port.rings.arrive(&bytes);
                    dropped += u64::from(port.rings.arrived.len() == before);
                }
                4 | 5 => {
                    let mut arrived = std::mem::take(&mut port.rings.arrived);
                    port.receive(|bytes| assert_eq!(Some(&*bytes), arrived.pop_front().as_deref()));
                    port.rings.arrived = arrived;
                }
                6..=8 => {
                    let bytes = payload(random);
                    let result = port.send(|buffer| {
                        buffer[..bytes.len()].copy_from_slice(&bytes);
                        Some(bytes.len())
                    });
                    match result {
                        Ok(()) => sent.push(bytes),
                        Err(Full) => full += 1,
                    }
                }
                // Nothing to send after all.
                9 => drop(port.send(|_| None)),
                10 => port.flush(),
                _ => {
                    port.rings.stuck = random.below(8) == 0;
                    (0..random.below(8)).for_each(|_| port.rings.land(random));
                }
            }
            check(&port);
        }
        settle(&mut port, random);
        check(&port);
        port.frames().check();
        assert_eq!(port.rings.wire, sent, "all that was sent left, in order");
        assert_eq!(port.frames().count(Place::Fill), fill_target, "full at the end");
        // The socket closes with frames under way: what the kernel held and what was free is all there was.
        (0..random.below(20)).for_each(|_| port.rings.arrive(&[1]));
        let _ = port.send(|_| Some(1));
        let free = port.frames().count(Place::Free) as usize;
        let rings = port.close();
        assert_eq!(rings.held() + free, total as usize);
        if operations >= 1_000_000 {
            break;
        }
    }
    assert!(full > 1000 && dropped > 1000, "the interesting cases were met: {full} {dropped}");
}

#[test]
fn a_buffer_that_the_kernel_doesnt_have_is_counted_and_left_alone() {
    let mut port = Port::new(Model::new(8, 8), 8, 4);
    // Number 7 was never given away; 99 doesn't exist; 0 to 3 are in the fill ring, not being sent.
    port.rings.complete.extend([7, 99, 0]);
    port.reclaim();
    assert_eq!(port.frames().strays(), 3);
    port.rings.receive.extend([(7, 1), (99, 1)]);
    assert_eq!(port.receive(|_| panic!("nobody's frame was shown")), 2);
    assert_eq!(port.frames().strays(), 5);
    port.frames().check();
    assert_eq!(port.frames().count(Place::Fill), 4);
}

#[test]
fn a_kernel_that_takes_nothing_costs_a_bounded_number_of_kicks() {
    let mut port = Port::new(Model::new(8, 8), 8, 4);
    port.rings.stuck = true;
    for _ in 0..4 {
        port.send(|_| Some(3)).unwrap();
    }
    assert_eq!(port.send(|_| Some(3)), Err(Full));
    port.flush();
    assert!(port.is_unsent());
    port.rings.stuck = false;
    port.flush();
    assert!(!port.is_unsent());
    assert_eq!(port.rings.wire.len(), 4);
}

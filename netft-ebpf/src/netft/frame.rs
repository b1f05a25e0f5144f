//! The one place where packet memory is touched.

use aya_ebpf::programs::{TcContext, XdpContext};
use bytemuck::Pod;
use core::ptr;
use netft_common::packet::{Packet, PacketMut};

/// The linear part of a received frame.
pub struct XdpFrame {
    data: usize,
    data_end: usize,
}

impl XdpFrame {
    /// The frame of this run of the program.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { data: context.data(), data_end: context.data_end() }
    }

    /// Where `T` at `offset` is, if all of it is inside the frame. The form of the comparison is the one that the
    /// verifier understands.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.data_end { None } else { Some(start as *mut T) }
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        let from = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that all of T is between data and data_end, which stay valid and are ours alone
        // while the program runs; any bits are a T (Pod), and the read needs no alignment.
        Some(unsafe { ptr::read_unaligned(from) })
    }
}

impl PacketMut for XdpFrame {
    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        let to = self.at::<T>(offset)?;
        // SAFETY: as for the read; XDP programs may write to the frame.
        unsafe { ptr::write_unaligned(to, value) };
        Some(())
    }
}

/// A frame in TC. Headers that aren't in its linear part are copied, so that no frame can hide what it says there.
pub struct TcFrame<'a> {
    context: &'a TcContext,
    data: usize,
    data_end: usize,
}

impl<'a> TcFrame<'a> {
    /// The frame of this run of the program.
    #[inline(always)]
    pub fn new(context: &'a TcContext) -> Self {
        Self { context, data: context.data(), data_end: context.data_end() }
    }
}

impl Packet for TcFrame<'_> {
    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.data_end {
            return self.context.load(offset).ok();
        }
        // SAFETY: all of T is between data and data_end, which stay valid while the program runs and changes nothing; any
        // bits are a T (Pod), and the read needs no alignment.
        Some(unsafe { ptr::read_unaligned(start as *const T) })
    }
}

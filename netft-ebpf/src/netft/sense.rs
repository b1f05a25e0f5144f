//! Whether this CPU handles packets in time: a timer on each CPU that has handled legs lately, run where packets are
//! handled (softirq), so that it is late when they are.
//!
//! `bpf_timer` (kernel 5.15), kept on its CPU (BPF_F_TIMER_CPU_PIN, kernel 6.7); on older ones nothing is sensed.

use super::log;
use aya_ebpf::bindings::{BPF_F_TIMER_CPU_PIN, bpf_timer};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_boot_ns, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use core::ptr;
use netft_common::map::{CPU_TICK_NS, CpuTick, MAX_CPUS, cpu_tick};

/// Without legs for so long the timer rests.
const REST_NS: u64 = 1_000_000_000;
const CLOCK_MONOTONIC: u64 = 1;
/// The timer was made before.
const EBUSY: i64 = -16;

#[repr(C)]
struct Timer {
    timer: bpf_timer,
}

#[btf_map]
static TIMERS: Array<Timer, { MAX_CPUS as usize }> = Array::new();
#[btf_map]
static CPUS: Array<CpuTick, { MAX_CPUS as usize }, { super::maps::MMAPABLE }> = Array::new();

/// A leg was handled on this CPU.
#[inline(always)]
pub fn used() {
    // SAFETY: the helpers take nothing and return numbers.
    let (cpu, now) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_boot_ns()) };
    let Some(tick) = CPUS.get_ptr_mut(cpu) else { return };
    // SAFETY: the map gave a valid pointer, and only this CPU writes there, never two programs at once (softirq).
    unsafe {
        ptr::write_volatile(&raw mut (*tick).used_ns, now);
        if ptr::read_volatile(&raw const (*tick).state) == cpu_tick::RESTING {
            let started = start(cpu);
            ptr::write_volatile(&raw mut (*tick).tick_ns, now);
            let state = if started { cpu_tick::RUNNING } else { cpu_tick::UNAVAILABLE };
            ptr::write_volatile(&raw mut (*tick).state, state);
        }
    }
}

#[inline(never)]
fn start(cpu: u32) -> bool {
    let Some(slot) = TIMERS.get_ptr_mut(cpu) else { return false };
    // SAFETY: the timer lies in the map that is named; the callback has the signature that the kernel calls it with.
    let (helper, error) = unsafe {
        let timer = &raw mut (*slot).timer;
        let made = bpf_timer_init(timer, (&raw const TIMERS).cast_mut().cast(), CLOCK_MONOTONIC);
        if made != 0 && made != EBUSY {
            ("bpf_timer_init", made)
        } else {
            let set = bpf_timer_set_callback(timer, tick as *mut c_void);
            if set != 0 {
                ("bpf_timer_set_callback", set)
            } else {
                ("bpf_timer_start", bpf_timer_start(timer, CPU_TICK_NS, BPF_F_TIMER_CPU_PIN.into()))
            }
        }
    };
    if error != 0 {
        log::not_watched(cpu, helper, error);
    }
    error == 0
}

/// Called by the kernel when the timer has run out, on the timer's CPU.
extern "C" fn tick(_map: *mut c_void, cpu: *mut u32, slot: *mut Timer) -> i32 {
    // SAFETY: the kernel hands over a map entry with its key; the helpers take nothing.
    let (cpu, here, now) = unsafe { (*cpu, bpf_get_smp_processor_id(), bpf_ktime_get_boot_ns()) };
    let Some(tick) = CPUS.get_ptr_mut(cpu) else { return 0 };
    // SAFETY: as in `used`. When a CPU is taken out, its timer runs on on another: then nobody handles legs there.
    unsafe {
        let unused = now.wrapping_sub(ptr::read_volatile(&raw const (*tick).used_ns)) > REST_NS;
        ptr::write_volatile(&raw mut (*tick).tick_ns, now);
        if unused
            || here != cpu
            || bpf_timer_start(&raw mut (*slot).timer, CPU_TICK_NS, BPF_F_TIMER_CPU_PIN.into()) != 0
        {
            ptr::write_volatile(&raw mut (*tick).state, cpu_tick::RESTING);
        }
    }
    0
}

//! The one file with `unsafe`: kernel memory and helpers behind safe names.
//!
//! Why each is sound is said once here: helpers are called with pointers the verifier
//! has checked; map values are plain integers, valid for any bytes; a value reached
//! through socket storage lives as long as the program run (RCU), and every type in a map
//! is `repr(C)` and zero-initialised by the kernel.
#![expect(
    unsafe_code,
    reason = "the fence: nothing else in this crate is unsafe"
)]

mod ending;
mod facts;

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_ops};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_socket_cookie, bpf_ktime_get_ns,
    bpf_probe_read_kernel, bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_output,
    bpf_sk_storage_get, bpf_skb_load_bytes, bpf_tcp_sock,
};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::{SkBuffContext, SockOpsContext, TracePointContext};

pub(crate) use ending::Ending;
use facts::{ARGUMENTS, EXTENDED_ERROR, LAST_QUEUED, NETWORK, PORTS, SK_ERR};
pub(crate) use facts::{
    by_cookie, idle, is_scoped, reset_has_reason, reset_reason, tells_in_brief,
};

/// `ee_origin` of what an ICMP said, of both versions (include/uapi/linux/errqueue.h).
const ORIGINS_ICMP: core::ops::RangeInclusive<u64> = 2..=3;

/// The registers a system call was made with, a `const struct pt_regs *`.
#[derive(Clone, Copy)]
pub(crate) struct Registers(*const c_void);

impl Registers {
    /// From an argument of a function.
    #[inline(always)]
    pub(crate) fn from_arg(registers: *const c_void) -> Self {
        Self(registers)
    }

    /// The argument of that number, from 0.
    #[inline(always)]
    pub(crate) fn argument(self, number: usize) -> u64 {
        let at = ARGUMENTS[number].load() as usize;
        // SAFETY: see the top of the file. The verifier knows the constant, and lets registers be
        // read at its fields only.
        unsafe { self.0.cast::<u8>().add(at).cast::<u64>().read() }
    }
}

/// A `struct sock *` (tracepoints) or `struct bpf_sock *` (packets, callbacks), never null, and
/// what the kernel gives its cookie for.
#[derive(Clone, Copy)]
pub(crate) struct Sock {
    sk: *mut c_void,
    named_by: *mut c_void,
}

impl Sock {
    /// From a tracepoint argument.
    #[inline(always)]
    pub(crate) fn from_arg(sk: *const c_void) -> Option<Self> {
        if sk.is_null() {
            None
        } else {
            let sk = sk.cast_mut();
            Some(Self { sk, named_by: sk })
        }
    }

    /// The socket of a callback.
    #[inline(always)]
    pub(crate) fn of_callback(ctx: &SockOpsContext) -> Option<Self> {
        // SAFETY: see the top of the file.
        let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
        if sk.is_null() {
            None
        } else {
            Some(Self {
                sk: sk.cast(),
                named_by: ctx.ops.cast(),
            })
        }
    }

    /// The error that waits for whoever uses the socket of a typed tracepoint, errno; 0 for none,
    /// and where it cannot be had.
    #[inline(always)]
    pub(crate) fn error(self) -> u16 {
        let at = SK_ERR.load();
        if by_cookie() || at == 0 {
            return 0;
        }
        // SAFETY: see the top of the file. The verifier knows the constant, and lets a socket be
        // read at its fields only.
        unsafe { self.sk.cast::<u8>().add(at as usize).cast::<i32>().read() as u16 }
    }

    /// Ports of the socket of a typed tracepoint or a callback, its own and its peer's, host order;
    /// zeros where they cannot be had.
    #[inline(always)]
    pub(crate) fn ports(self) -> (u16, u16) {
        if by_cookie() {
            let ops = self.named_by.cast::<bpf_sock_ops>();
            // SAFETY: see the top of the file; a callback's socket is named by its context. Volatile,
            // for a context is read in whole words only.
            let (own, peer) = unsafe {
                (
                    (&raw const (*ops).local_port).read_volatile(),
                    (&raw const (*ops).remote_port).read_volatile(),
                )
            };
            return (own as u16, u32::from_be(peer) as u16);
        }
        let [peer, own] = [PORTS[0].load(), PORTS[1].load()];
        if peer == 0 || own == 0 {
            return (0, 0);
        }
        let sk = self.sk.cast::<u8>();
        // SAFETY: see the top of the file. The verifier knows the constants, and lets a socket be
        // read at its fields only.
        let (own, peer) = unsafe {
            (
                sk.add(own as usize).cast::<u16>().read(),
                sk.add(peer as usize).cast::<u16>().read(),
            )
        };
        (own, u16::from_be(peer))
    }

    /// Network namespace of the socket of a typed tracepoint, its inode; 0 where it cannot be had.
    #[inline(always)]
    pub(crate) fn network(self) -> u32 {
        let (at, inode) = (NETWORK[0].load(), NETWORK[1].load());
        if by_cookie() || at == 0 || inode == 0 {
            return 0;
        }
        let network = read_kernel(self.sk.cast::<u8>().wrapping_add(at as usize) as u64);
        read_kernel(network.wrapping_add(u64::from(inode))) as u32
    }

    /// What the ICMP said that was queued last for the socket of a typed tracepoint, errno; 0 where
    /// something else was, and where it cannot be had.
    #[inline(always)]
    pub(crate) fn icmp_error(self) -> u16 {
        let (last, error) = (LAST_QUEUED.load() as usize, EXTENDED_ERROR.load() as usize);
        if by_cookie() || last == 0 || error == 0 {
            return 0;
        }
        let last = self.sk.cast::<u8>().wrapping_add(last);
        let queued = read_kernel(last as u64);
        if queued == last.wrapping_sub(8) as u64 {
            // The queue itself: it is empty.
            return 0;
        }
        let error = read_kernel(queued.wrapping_add(error as u64));
        if ORIGINS_ICMP.contains(&(error >> 32 & 0xff)) {
            error as u16
        } else {
            0
        }
    }

    /// The socket of a packet. The kernel runs packet programs for full sockets only, never for
    /// those of requests or in TIME_WAIT (`__cgroup_bpf_run_filter_skb`, kernel/bpf/cgroup.c).
    #[inline(always)]
    pub(crate) fn of_packet(ctx: &SkBuffContext) -> Option<Self> {
        // SAFETY: see the top of the file.
        let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
        if sk.is_null() {
            None
        } else {
            Some(Self {
                sk: sk.cast(),
                named_by: ctx.skb.skb.cast(),
            })
        }
    }

    /// It waits for connections (packets only, as [`Sock::srtt_us`]).
    #[inline(always)]
    pub(crate) fn is_listening(self) -> bool {
        /// `TCP_LISTEN`, include/net/tcp_states.h
        const LISTEN: u32 = 10;
        // SAFETY: see the top of the file.
        unsafe { (*self.sk.cast::<bpf_sock>()).state == LISTEN }
    }

    /// Smoothed round-trip time, us (packets only: a tracepoint's socket is of another
    /// type to the verifier). 0 when not measured.
    #[inline(always)]
    pub(crate) fn srtt_us(self) -> u32 {
        // SAFETY: see the top of the file.
        let tcp = unsafe { bpf_tcp_sock(self.sk.cast::<bpf_sock>()) };
        if tcp.is_null() {
            return 0;
        }
        // tcp_sock keeps the value times eight.
        // SAFETY: as above.
        unsafe { (*tcp).srtt_us >> 3 }
    }

    /// Nothing but this segment was sent or received on the connection, as far as the kernel counts
    /// (packets only, as [`Sock::srtt_us`]). `seq`: the segment's, where it leaves with data.
    #[inline(always)]
    pub(crate) fn is_fresh(self, seq: Option<u32>) -> bool {
        // SAFETY: see the top of the file; null is no reference.
        let tcp = unsafe { bpf_tcp_sock(self.sk.cast::<bpf_sock>()).as_ref() };
        tcp.is_some_and(|tcp| {
            // What leaves is counted already; a SYN that was answered counts as one byte.
            let is_first = seq.map_or(tcp.data_segs_out == 0, |seq| seq == tcp.snd_una);
            tcp.data_segs_in == 0 && tcp.bytes_acked <= 1 && is_first
        })
    }

    /// Socket cookie.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: see the top of the file.
        unsafe { bpf_get_socket_cookie(self.named_by) }
    }
}

/// `CLOCK_MONOTONIC`, ns.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: see the top of the file.
    unsafe { bpf_ktime_get_ns() }
}

/// Network namespace of the running thread, its inode, where a socket's cannot be had: before 5.11. A
/// thread that ends has none any more.
#[inline(always)]
pub(crate) fn network_of_thread() -> u32 {
    let [inode, proxy, network] = [NETWORK[1].load(), NETWORK[2].load(), NETWORK[3].load()];
    if !by_cookie() || inode == 0 || proxy == 0 || network == 0 {
        return 0;
    }
    let proxy = read_kernel(task().wrapping_add(u64::from(proxy)));
    let network = read_kernel(proxy.wrapping_add(u64::from(network)));
    read_kernel(network.wrapping_add(u64::from(inode))) as u32
}

/// Address of the running `task_struct`: a name for the thread, never dereferenced. There
/// is no thread id for packet programs before 6.12; this is there on every kernel.
#[inline(always)]
pub(crate) fn task() -> u64 {
    // SAFETY: see the top of the file.
    unsafe { bpf_get_current_task() }
}

/// Thread group of the running thread (tracepoints only).
#[inline(always)]
pub(crate) fn tgid() -> u32 {
    // SAFETY: see the top of the file.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// The value in `map` for `sk`.
#[inline(always)]
pub(crate) fn storage_get<T>(map: &'static SkStorage<T>, sk: Sock) -> Option<&'static mut T> {
    storage(map, sk, 0)
}

/// The value in `map` for `sk`, zeroed when new; `None` when memory is short.
#[inline(always)]
pub(crate) fn storage_get_or_create<T>(
    map: &'static SkStorage<T>,
    sk: Sock,
) -> Option<&'static mut T> {
    storage(map, sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[expect(
    clippy::mut_from_ref,
    reason = "the value is the kernel's, not part of the map's definition; see flow.rs for who writes which field"
)]
#[inline(always)]
fn storage<T>(map: &'static SkStorage<T>, sk: Sock, flags: u64) -> Option<&'static mut T> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: see the top of the file.
    let value = unsafe { bpf_sk_storage_get(map, sk.sk, core::ptr::null_mut(), flags) };
    // SAFETY: as above.
    unsafe { value.cast::<T>().as_mut() }
}

/// Copies `len` packet bytes at `offset` into `to`; the caller keeps `1 <= len <= N`.
#[inline(always)]
pub(crate) fn load<const N: usize>(
    ctx: &SkBuffContext,
    offset: u32,
    to: &mut [u8; N],
    len: u32,
) -> bool {
    // SAFETY: see the top of the file.
    unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, to.as_mut_ptr().cast(), len) == 0 }
}

/// Eight packet bytes at `offset`, the first in the low byte.
#[inline(always)]
pub(crate) fn load_u64(ctx: &SkBuffContext, offset: u32) -> Option<u64> {
    let mut bytes = [0u8; 8];
    if load(ctx, offset, &mut bytes, 8) {
        Some(u64::from_le_bytes(bytes))
    } else {
        None
    }
}

/// Bounds of the linear part of a packet.
#[inline(always)]
pub(crate) fn linear(ctx: &SkBuffContext) -> (usize, usize) {
    // SAFETY: see the top of the file.
    unsafe {
        (
            (*ctx.skb.skb).data as usize,
            (*ctx.skb.skb).data_end as usize,
        )
    }
}

/// Reads a `T` of the linear part; the caller has compared `address + size_of::<T>()`
/// with the end, and the verifier checks that it has.
#[inline(always)]
pub(crate) fn linear_read<T: Copy>(address: usize) -> T {
    // SAFETY: see the top of the file; packets may lie unaligned.
    unsafe { (address as *const T).read_unaligned() }
}

/// Reads a field of a classic tracepoint.
#[inline(always)]
pub(crate) fn field<T>(ctx: &TracePointContext, offset: usize) -> Option<T> {
    // SAFETY: see the top of the file.
    unsafe { ctx.read_at(offset) }.ok()
}

/// Copies `len` bytes of user memory; false when `len` is more than `N`.
#[inline(always)]
pub(crate) fn read_user<const N: usize>(from: u64, to: &mut [u8; N], len: u32) -> bool {
    let len = opaque(&u64::from(len));
    if len > N as u64 {
        return false;
    }
    // SAFETY: see the top of the file.
    unsafe { bpf_probe_read_user(to.as_mut_ptr().cast(), len as u32, from as *const c_void) == 0 }
}

/// Copies a zero-terminated string of user memory; its length with the zero byte, 0 when
/// it cannot be read.
#[inline(always)]
pub(crate) fn read_user_str<const N: usize>(from: u64, to: &mut [u8; N]) -> u64 {
    // SAFETY: see the top of the file.
    let copied =
        unsafe { bpf_probe_read_user_str(to.as_mut_ptr().cast(), N as u32, from as *const c_void) };
    if copied > 0 { copied as u64 } else { 0 }
}

/// Adds one to a per-CPU value. Atomic, because a packet program in interrupt context may
/// run in the middle of one in process context; Rust has no atomic add for this target.
#[inline(always)]
pub(crate) fn increment(pointer: *mut u64) {
    add(value(pointer), 1);
}

/// The value behind a map pointer.
#[inline(always)]
pub(crate) fn value<T>(pointer: *mut T) -> &'static mut T {
    // SAFETY: see the top of the file; the pointer comes from a map lookup that succeeded.
    unsafe { &mut *pointer }
}

/// A read the compiler cannot reason about. The verifier forgets what it knew of the
/// value as well, which lets it see that two ways through a loop are the same.
#[inline(always)]
pub(crate) fn opaque<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::read_volatile(value) }
}

/// A write the compiler cannot keep in a register instead: see [`opaque`].
#[inline(always)]
pub(crate) fn store<T: Copy>(to: &mut T, value: T) {
    // SAFETY: a reference is writable.
    unsafe { core::ptr::write_volatile(to, value) };
}

/// A byte that several CPUs read and write at once: each access is one load or one store. (Rust has
/// no atomic byte for this target.)
#[repr(transparent)]
#[derive(Default)]
pub(crate) struct Byte(UnsafeCell<u8>);

impl Byte {
    #[inline(always)]
    pub(crate) fn get(&self) -> u8 {
        // SAFETY: the byte is there as long as `self`.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn set(&self, value: u8) {
        // SAFETY: as above, and nobody has a reference to what is in the cell.
        unsafe { self.0.get().write_volatile(value) };
    }
}

/// Copies `from` to `to` word by word. The compiler would call a function that moves one byte at a
/// time, which took a fifth of the time of the packet programs.
#[inline(always)]
pub(crate) fn assign<T: Copy>(to: &mut T, from: &T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let to = core::ptr::from_mut(to).cast::<u64>();
    let from = core::ptr::from_ref(from).cast::<u64>();
    let mut at = 0;
    while at < size_of::<T>() / 8 {
        // SAFETY: both are as long as `T`, a multiple of a word. Volatile, or the compiler sees
        // that it is a copy and calls its function again.
        unsafe { to.add(at).write(from.add(at).read_volatile()) };
        at += 1;
    }
}

/// Eight bytes at `at` of `bytes`, aligned or not; the caller keeps `at + 8 <= N`. The
/// compiler would read an unaligned word byte by byte; the kernels we run on need not.
#[inline(always)]
pub(crate) fn word<const N: usize>(bytes: &[u8; N], at: u32) -> u64 {
    let value: u64;
    // SAFETY: see the top of the file; the verifier checks the bound.
    unsafe {
        let from = bytes.as_ptr().add(at as usize);
        core::arch::asm!(
            "{value} = *(u64 *)({from} + 0)",
            value = out(reg) value,
            from = in(reg) from,
            options(nostack, readonly),
        );
    }
    value
}

/// The low bits of `value` that `BELOW`, a power of two, leaves; to be used after `value` was
/// compared. A value that waits on the stack loses what a comparison showed of it (kernels
/// before 6.8 know two copies to be the same only in registers); this it keeps.
#[inline(always)]
pub(crate) fn bounded<const BELOW: u32>(value: u32) -> u32 {
    const { assert!(BELOW.is_power_of_two() && BELOW <= 1 << 16) };
    let mut value = u64::from(value);
    // SAFETY: registers only.
    unsafe {
        core::arch::asm!(
            "{value} &= {mask}",
            value = inout(reg) value,
            mask = const BELOW - 1,
            options(nostack, pure, nomem),
        );
    }
    value as u32
}

/// `value`, which was compared: 1 at least, and `MAX`, a power of two, at most. That a value is
/// not 0 teaches the verifier nothing before 6.8 ("R3 min value is outside of the allowed
/// memory range").
#[inline(always)]
fn from_one_to<const MAX: usize>(mut value: u64) -> u64 {
    const { assert!(MAX.is_power_of_two() && MAX <= 1 << 16) };
    // SAFETY: registers only.
    unsafe {
        core::arch::asm!(
            "{value} += -1",
            "{value} &= {mask}",
            "{value} += 1",
            value = inout(reg) value,
            mask = const MAX - 1,
            options(nostack, pure, nomem),
        );
    }
    value
}

/// 0 for 0, else 1, without a branch: the verifier would walk both ways of one.
#[inline(always)]
pub(crate) fn not_zero(value: u64) -> u64 {
    let result: u64;
    // SAFETY: registers only.
    unsafe {
        core::arch::asm!(
            "{result} = -{result}",
            "{result} |= {value}",
            "{result} >>= 63",
            value = in(reg) value,
            result = inout(reg) value => result,
            options(nostack, pure, nomem),
        );
    }
    result
}

/// Adds to a shared word; atomic as [`increment`].
#[inline(always)]
pub(crate) fn add(value: &mut u64, by: i64) {
    // SAFETY: see the top of the file; one aligned word is changed.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({value} + 0) += {by}",
            value = in(reg) core::ptr::from_mut(value),
            by = in(reg) by,
            options(nostack),
        );
    }
}

/// The word at `from` of the kernel's memory; 0 when it cannot be read.
#[inline(always)]
fn read_kernel(from: u64) -> u64 {
    try_read_kernel(from).unwrap_or(0)
}

/// The word at `from` of the kernel's memory.
#[inline(always)]
fn try_read_kernel(from: u64) -> Option<u64> {
    let mut word = 0u64;
    // SAFETY: see the top of the file; the helper checks the address.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, from as *const c_void) };
    if failed == 0 { Some(word) } else { None }
}

/// Copies the first `LEN` bytes of `from` into `to`.
#[inline(always)]
pub(crate) fn copy<const LEN: usize, const N: usize, const M: usize>(
    from: &[u8; N],
    to: &mut [u8; M],
) {
    const { assert!(LEN <= N && LEN <= M) };
    // SAFETY: see the top of the file; both are at least `LEN` long.
    unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), LEN as u32, from.as_ptr().cast()) };
}

/// The byte at `at` of `bytes`; the caller keeps `at < N`.
#[inline(always)]
pub(crate) fn byte<const N: usize>(bytes: &[u8; N], at: u32) -> u8 {
    // SAFETY: see the top of the file; the verifier checks the bound.
    unsafe { *bytes.as_ptr().add(at as usize) }
}

/// Copies `len` packet bytes at `offset` to `at` in `to`; false when `len` is 0 or more
/// than `MAX`. The caller keeps `at + MAX <= N`.
#[inline(always)]
pub(crate) fn load_at<const MAX: usize, const N: usize>(
    ctx: &SkBuffContext,
    offset: u32,
    to: &mut [u8; N],
    at: u32,
    len: u32,
) -> bool {
    // As 64 bits and read anew: of a 32-bit value the compiler compares a zero-extended
    // copy, and the verifier learns nothing of the original ("R4 invalid zero-sized read").
    let len = opaque(&u64::from(len));
    if len == 0 || len > MAX as u64 {
        return false;
    }
    let len = from_one_to::<MAX>(len);
    // SAFETY: see the top of the file; the verifier checks the bound.
    let to = unsafe { to.as_mut_ptr().add(at as usize) };
    // SAFETY: as above.
    unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, to.cast(), len as u32) == 0 }
}

/// Ring memory as a `T`: what was there before is a valid `T` too, for every record is
/// made of integers. The caller writes what the reader will read.
#[inline(always)]
pub(crate) fn assume_mut<T>(slot: &mut MaybeUninit<T>) -> &mut T {
    // SAFETY: see the top of the file and above.
    unsafe { slot.assume_init_mut() }
}

/// Copies the first `len` bytes of `record` into the ring; the caller keeps
/// `len <= size_of::<T>()`.
#[inline(always)]
pub(crate) fn ring_output<T>(ring: &'static RingBuf, record: &T, len: u32, flags: u64) -> bool {
    let ring = core::ptr::from_ref(ring).cast_mut().cast();
    let record = core::ptr::from_ref(record).cast_mut().cast();
    // SAFETY: see the top of the file; the map definition is what the helper takes.
    unsafe { bpf_ringbuf_output(ring, record, u64::from(len), flags) == 0 }
}

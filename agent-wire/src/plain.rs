//! The one place where bytes become a record and a record becomes bytes.

use core::mem::size_of;

use crate::brief::{Brief, Held};
use crate::record::{
    Abandoned, Connect, Death, Dns, End, Header, Hello, MessageHead, Reset, Tls, UnixConnect,
    UnreadClient,
};

/// A type of plain integers: any bytes are a valid value, and there is no padding.
///
/// # Safety
/// The implementer is `repr(C)`, consists of integers and arrays of integers only, and
/// has no padding (asserted beside each type in [`crate::record`]).
pub unsafe trait Plain: Copy {}

// SAFETY: each is repr(C) of integers; record.rs asserts that no padding is left.
unsafe impl Plain for Header {}
// SAFETY: as above.
unsafe impl Plain for Connect {}
// SAFETY: as above.
unsafe impl Plain for MessageHead {}
// SAFETY: as above.
unsafe impl Plain for End {}
// SAFETY: as above.
unsafe impl Plain for Reset {}
// SAFETY: as above.
unsafe impl Plain for UnixConnect {}
// SAFETY: as above.
unsafe impl Plain for Tls {}
// SAFETY: as above.
unsafe impl Plain for Hello {}
// SAFETY: as above.
unsafe impl Plain for Abandoned {}
// SAFETY: as above.
unsafe impl Plain for Dns {}
// SAFETY: as above.
unsafe impl Plain for Death {}
// SAFETY: as above.
unsafe impl Plain for UnreadClient {}
// SAFETY: as above; `brief.rs` asserts it.
unsafe impl Plain for Brief {}
// SAFETY: as above.
unsafe impl Plain for Held {}

/// Reads a `T` from the front of `bytes`; `None` when they are too short.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length was checked, `Plain` makes every bit pattern valid, and
    // read_unaligned asks for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of `value`, as they stand in the ring.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so every byte is initialised; the lifetime is that
    // of the borrow.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

//! Takes records out of the ring.
//!
//! In: the ring's map (`BPF_MAP_TYPE_RINGBUF`, kernel/bpf/ringbuf.c). Out: its records, oldest first.
//!
//! aya's reader maps the data twice behind each other, as the kernel has them, so that no record is
//! cut: every page counts twice as memory of the agent's then. Here they are mapped once, and the one
//! record in each turn of the ring that is cut is put together. And what was read is given back many
//! records at a time: the probes ask for that word at each record, on other CPUs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// `BPF_RINGBUF_HDR_SZ`: in front of each record, its length and two bits.
const HEADER: usize = 8;

/// `BPF_RINGBUF_BUSY_BIT`: reserved, and not written yet.
const BUSY: u32 = 1 << 31;

/// `BPF_RINGBUF_DISCARD_BIT`: reserved, and given up.
const DISCARDED: u32 = 1 << 30;

/// Part of the ring, as a divisor, that is given back at once. Less: the word is written more often.
/// More: a full ring loses records that have room already.
const GIVE_BACK_PART: usize = 16;

/// The reader of a ring.
#[derive(Debug)]
pub(super) struct Ring {
    map: OwnedFd,
    /// One page: how far was read, bytes since the ring was made.
    consumer: Pages,
    /// One page, how far was reserved, and the data behind it.
    producer: Pages,
    page: usize,
    size: usize,
    /// How far was read, of which `given_back` is known to the kernel.
    position: usize,
    given_back: usize,
    /// A record that was cut.
    whole: Vec<u8>,
}

impl Ring {
    /// The ring whose map is open at `map`, of `size` bytes: a power of two.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub(super) fn new(map: OwnedFd, size: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let fd = map.as_fd();
        let consumer = Pages::map(fd, ProtFlags::READ | ProtFlags::WRITE, 0, page)?;
        let producer = Pages::map(fd, ProtFlags::READ, page, page + size)?;
        let position = consumer.position().load(Ordering::Acquire);
        Ok(Self {
            map,
            consumer,
            producer,
            page,
            size,
            position,
            given_back: position,
            whole: Vec::new(),
        })
    }

    /// Hands out the records that wait, oldest first and `at_most` so many; how many.
    pub(super) fn drain(&mut self, at_most: usize, mut each: impl FnMut(&[u8])) -> usize {
        let reserved = self.producer.position().load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let mut count = 0;
        while count < at_most && self.position != reserved {
            let at = self.position & (self.size - 1);
            // The kernel takes the bit away when the record is whole (bpf_ringbuf_commit).
            let header = self.producer.header(self.page + at).load(Ordering::Relaxed);
            if header & BUSY != 0 {
                break;
            }
            // Not by the load: of pages that may only be read, std promises relaxed ones.
            fence(Ordering::Acquire);
            let len = (header & !DISCARDED) as usize;
            if header & DISCARDED == 0 {
                each(self.record(at, len));
                count += 1;
            }
            let taken = (HEADER + len).next_multiple_of(HEADER);
            self.position = self.position.wrapping_add(taken);
            if self.position.wrapping_sub(self.given_back) >= self.size / GIVE_BACK_PART {
                self.give_back();
            }
        }
        if self.position != self.given_back {
            self.give_back();
        }
        count
    }

    /// The record of `len` bytes whose header is at `at` of the data. The header never is cut.
    fn record(&mut self, at: usize, len: usize) -> &[u8] {
        let start = (at + HEADER) & (self.size - 1);
        let before_the_end = self.size - start;
        if len <= before_the_end {
            return self.producer.bytes(self.page + start, len);
        }
        let Self {
            whole, producer, ..
        } = self;
        whole.clear();
        whole.extend_from_slice(producer.bytes(self.page + start, before_the_end));
        whole.extend_from_slice(producer.bytes(self.page, len - before_the_end));
        whole
    }

    /// What was read may be written again.
    fn give_back(&mut self) {
        self.consumer
            .position()
            .store(self.position, Ordering::Release);
        self.given_back = self.position;
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.as_raw_fd()
    }
}

/// Pages that are shared with the kernel.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages belong to the value, and no thread has to do with where they are.
unsafe impl Send for Pages {}

// SAFETY: as above; what others write is read by atomic loads, or not before they say it is whole.
unsafe impl Sync for Pages {}

impl Pages {
    fn map(fd: BorrowedFd<'_>, rights: ProtFlags, from: usize, len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                rights,
                MapFlags::SHARED,
                fd,
                from as u64,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The word at the start of the first page.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: a page is aligned, longer than the word, and mapped as long as `self` is.
        unsafe { self.start.cast().as_ref() }
    }

    /// The first half of the header at `at`, a multiple of 8.
    fn header(&self, at: usize) -> &AtomicU32 {
        assert!(
            at.is_multiple_of(HEADER) && at < self.len,
            "no header there"
        );
        // SAFETY: aligned, and within what is mapped as long as `self` is.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    /// Bytes of a record that is whole and was not given back.
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at <= self.len && len <= self.len - at, "no record there");
        // SAFETY: within what is mapped; nobody writes to it before it is given back.
        unsafe { std::slice::from_raw_parts(self.start.add(at).as_ptr(), len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody has it any more.
        let gone = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(gone.is_ok(), "{gone:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::{any, prop};
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    const SIZE: usize = 4096;

    /// What the kernel does, in a file that has the layout of the map.
    struct Kernel {
        file: File,
        page: usize,
        reserved: usize,
    }

    impl Kernel {
        fn new() -> (Self, Ring) {
            let file = tempfile::tempfile().unwrap();
            let page = rustix::param::page_size();
            file.set_len((2 * page + SIZE) as u64).unwrap();
            let ring = Ring::new(file.try_clone().unwrap().into(), SIZE).unwrap();
            let reserved = 0;
            (
                Self {
                    file,
                    page,
                    reserved,
                },
                ring,
            )
        }

        fn word(&self, page: usize) -> usize {
            let mut bytes = [0; size_of::<usize>()];
            let at = (page * self.page) as u64;
            self.file.read_exact_at(&mut bytes, at).unwrap();
            usize::from_ne_bytes(bytes)
        }

        fn put(&self, position: usize, bytes: &[u8]) {
            let start = position % SIZE;
            let (front, back) = bytes.split_at(bytes.len().min(SIZE - start));
            let data = 2 * self.page;
            for (at, part) in [(data + start, front), (data, back)] {
                self.file.write_all_at(part, at as u64).unwrap();
            }
        }

        /// False where there is no room.
        fn write(&mut self, record: &[u8], bits: u32) -> bool {
            let after = self.reserved + (HEADER + record.len()).next_multiple_of(HEADER);
            if after - self.word(0) > SIZE {
                return false;
            }
            let header = record.len() as u32 | bits;
            self.put(self.reserved, &header.to_ne_bytes());
            self.put(self.reserved + HEADER, record);
            self.reserved = after;
            let at = self.page as u64;
            self.file.write_all_at(&after.to_ne_bytes(), at).unwrap();
            true
        }
    }

    fn all(ring: &mut Ring, at_most: usize) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let count = ring.drain(at_most, |record| records.push(record.to_vec()));
        assert_eq!(count, records.len());
        records
    }

    proptest! {
        #[test]
        fn every_record_comes_whole_and_in_order(
            plan in prop::collection::vec((0_usize..900, any::<bool>(), 0_usize..9), 0..200),
        ) {
            let (mut kernel, mut ring) = Kernel::new();
            let mut written = Vec::new();
            let mut read = Vec::new();
            for (number, (len, given_up, at_most)) in plan.into_iter().enumerate() {
                let record: Vec<u8> = (0..len).map(|n| (n * 7 + number) as u8).collect();
                let bits = if given_up { DISCARDED } else { 0 };
                if kernel.write(&record, bits) && !given_up {
                    written.push(record);
                }
                read.extend(all(&mut ring, at_most));
            }
            read.extend(all(&mut ring, usize::MAX));
            prop_assert_eq!(read, written);
            prop_assert_eq!(kernel.word(0), kernel.reserved);
        }
    }

    #[test]
    fn a_record_that_is_not_whole_holds_up_those_behind_it() {
        let (mut kernel, mut ring) = Kernel::new();
        assert!(kernel.write(b"first", 0));
        assert!(kernel.write(b"second", BUSY));
        assert!(kernel.write(b"third", 0));
        assert_eq!(all(&mut ring, 9), [b"first"]);
        assert_eq!(all(&mut ring, 9), [b""; 0]);
        kernel.put(16, &6_u32.to_ne_bytes());
        assert_eq!(all(&mut ring, 9), [&b"second"[..], b"third"]);
    }

    #[test]
    fn room_is_given_back_while_a_full_ring_is_read() {
        let (mut kernel, mut ring) = Kernel::new();
        while kernel.write(&[1; 56], 0) {}
        let mut refilled = 0;
        ring.drain(SIZE / 64, |_| {
            refilled += usize::from(kernel.write(&[2; 56], 0))
        });
        assert!(refilled > SIZE / 64 - SIZE / 64 / 8, "{refilled}");
    }

    #[test]
    fn what_another_reader_left_is_read_from_there() {
        let (mut kernel, mut ring) = Kernel::new();
        assert!(kernel.write(b"read", 0));
        all(&mut ring, 1);
        assert!(kernel.write(b"left", 0));
        let mut next = Ring::new(kernel.file.try_clone().unwrap().into(), SIZE).unwrap();
        assert_eq!(all(&mut next, 9), [b"left"]);
    }
}

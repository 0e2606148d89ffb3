//! What a program without a C library must bring itself: entry, memory, panics.
//!
//! Without libc an exec of the supervisor costs a quarter of that of a static glibc program, and a
//! fork copies a handful of pages.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ptr::null_mut;

use crate::raw;

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {entry}", "ud2",
    entry = sym entry
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start", "_start:", "mov x29, xzr", "mov x0, sp", "bl {entry}", "brk 1",
    entry = sym entry
);

extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: at entry the kernel has put argc there, then argv, each a NUL-terminated string.
    let arguments =
        unsafe { core::slice::from_raw_parts(stack.add(1).cast::<*const core::ffi::c_char>(), *stack) };
    crate::start(arguments)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The guard sees an exit other than 0 and ends everything.
    raw::exit_group(101)
}

// Referred to by the precompiled `core`; never called, as panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}

/// The compiler calls these by name. Volatile accesses keep it from turning a loop into a call of
/// the very function.
mod memory {
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller vouches for both ranges.
        unsafe {
            core::arch::asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _,
                inout("rsi") from => _, options(nostack, preserves_flags));
        }
        #[cfg(not(target_arch = "x86_64"))]
        for i in 0..count {
            // SAFETY: as above.
            unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize) <= (from as usize) || (to as usize) >= from as usize + count {
            // SAFETY: a forward copy is right here, and the caller vouches for both ranges.
            return unsafe { memcpy(to, from, count) };
        }
        for i in (0..count).rev() {
            // SAFETY: as above.
            unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller vouches for the range.
        unsafe {
            core::arch::asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _,
                in("al") value as u8, options(nostack, preserves_flags));
        }
        #[cfg(not(target_arch = "x86_64"))]
        for i in 0..count {
            // SAFETY: as above.
            unsafe { to.add(i).write_volatile(value as u8) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        for i in 0..count {
            // SAFETY: the caller vouches for both ranges.
            let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
            if x != y {
                return i32::from(x) - i32::from(y);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        // SAFETY: the same contract.
        unsafe { memcmp(a, b, count) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut count = 0;
        // SAFETY: the caller vouches for the NUL at the end.
        while unsafe { text.add(count).read_volatile() } != 0 {
            count += 1;
        }
        count
    }
}

const CHUNK: usize = 1 << 16;
const SMALLEST: u32 = 5;
const LARGEST: u32 = 14;

/// Free lists by powers of two, from chunks that are never given back; larger blocks by `mmap`.
struct Allocator(UnsafeCell<Lists>);

struct Lists {
    free: [*mut *mut u8; (LARGEST + 1) as usize],
    chunk: *mut u8,
    left: usize,
}

// SAFETY: the supervisor has one thread.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(UnsafeCell::new(Lists {
    free: [null_mut(); (LARGEST + 1) as usize],
    chunk: null_mut(),
    left: 0,
}));

fn class(layout: Layout) -> u32 {
    let size = layout.size().max(layout.align()).max(1);
    size.next_power_of_two().trailing_zeros().max(SMALLEST)
}

// SAFETY: blocks of a class are as large as the class says, aligned to it, and in one list at most.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class(layout);
        if class > LARGEST {
            return raw::mmap(layout.size());
        }
        // SAFETY: one thread, and nothing below calls back into the allocator.
        let lists = unsafe { &mut *self.0.get() };
        let head = lists.free[class as usize];
        if !head.is_null() {
            // SAFETY: a free block begins with the address of the next one.
            lists.free[class as usize] = unsafe { *head }.cast();
            return head.cast();
        }
        let size = 1 << class;
        if lists.left < size {
            // What is left of the old chunk is lost: less than one block of this size.
            lists.chunk = raw::mmap(CHUNK);
            lists.left = if lists.chunk.is_null() { 0 } else { CHUNK };
            if lists.left == 0 {
                return null_mut();
            }
        }
        // Taken from the end, so that with sizes that are powers of two each block is aligned.
        lists.left = (lists.left - size) & !(size - 1);
        // SAFETY: within the chunk.
        unsafe { lists.chunk.add(lists.left) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let class = class(layout);
        if class > LARGEST {
            // SAFETY: it was mapped with this size, and its owner gives it up.
            return unsafe { raw::munmap(block, layout.size()) };
        }
        // SAFETY: one thread; the block is at least as large and aligned as a pointer.
        unsafe {
            let lists = &mut *self.0.get();
            *block.cast::<*mut u8>() = lists.free[class as usize].cast();
            lists.free[class as usize] = block.cast();
        }
    }
}

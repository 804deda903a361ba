//! The memory that a host and its worker share for their calls: one request, one reply, a doorbell for each.
//!
//! One call is in it at a time, so that a crash costs no other call. Neither side believes the other: a host copies a reply's
//! head once and checks it.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use nif::abi::DType;

pub use crate::bell::Doorbell;

/// Bytes for what has no fixed size: shapes, strings, messages.
pub const ROOM: usize = 64 << 10;
/// The most arguments of a call.
pub const MAX_ARGUMENTS: usize = 16;
/// In place of an offset: there is none.
pub const NOWHERE: u32 = u32::MAX;

/// `Request::what`.
pub mod request {
    /// Call a function.
    pub const CALL: u32 = 1;
    /// What the running call asked for: argument 0 is a block, or what a callback gave. Where a number of a device leads, messages
    /// over the socket say, and `mail` how many they are.
    pub const GRANT: u32 = 2;
    /// There is no memory for that block; the callback failed.
    pub const REFUSE: u32 = 3;
    /// Only read the messages, one of which is to open something.
    pub const OPEN: u32 = 4;
}

/// `Reply::what`.
pub mod reply {
    /// The call is over.
    pub const DONE: u32 = 1;
    /// The running call wants a block of shared memory.
    pub const ALLOCATE: u32 = 2;
    /// The running call calls its argument of that number with the values in the room. The elements of the arrays among them
    /// lie behind them, each array at the next 8 bytes; or in the block whose number plus one is the head's value. There they
    /// are what the callback made of them when the host answers, or at the begin of the request's room.
    pub const CALL_BACK: u32 = 3;
    /// The running call uses a number of a device: the head's value is that of an array if its argument is 0, else of a kernel. The
    /// host tells over the socket.
    pub const DEVICE: u32 = 4;
}

/// One argument; which fields count depends on the kind.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Argument {
    /// A type index of the ABI.
    pub kind: i32,
    /// Whether the function writes to the array.
    pub mutable: u32,
    /// A scalar's bits; the bytes of a text.
    pub value: u64,
    /// Where an array's first element lies, or a text: the segment and the offset. In segment 0 is this request's room; an
    /// array is only said to be there if nobody looks at its elements.
    pub segment: u64,
    pub offset: u64,
    /// What the array spans in the segment, whatever its strides.
    pub low: u64,
    pub high: u64,
    pub ndim: u32,
    pub dtype: DType,
    /// Where in the room, in words of 8 bytes; `NOWHERE` for none.
    pub shape: u32,
    pub strides: u32,
}

/// One value of a result that has several: they are side by side in the reply's room.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Value {
    /// NONE, INT, BOOL, FLOAT or TENSOR: no address means anything to the host.
    pub type_index: i32,
    /// Of an array that a callback is given: how many bytes each element has.
    pub item: u32,
    /// A scalar's bits; the number of an array's block; the length of an array that a callback is given.
    pub value: u64,
}

/// What the host asks.
#[repr(C)]
pub struct Request {
    pub what: u32,
    /// How many messages to read from the socket first.
    pub mail: u32,
    /// The function's number.
    pub function: u32,
    pub count: u32,
    pub timed: u32,
    /// Answer with random bytes of this seed, to see what a host makes of it; 0 for a call in earnest.
    pub garble: u32,
    /// How many values the tuple has that the function returns; 0 where it returns one value.
    pub results: u32,
    pub arguments: [Argument; MAX_ARGUMENTS],
    pub room: [u64; ROOM / 8],
}

/// The fixed part of a reply.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ReplyHead {
    pub what: u32,
    pub status: i32,
    /// Of the error, if there was one: kind and argument of the ABI; its text is in the room.
    pub kind: i32,
    pub argument: i32,
    /// Of the result, if it is one value: a string is in the room, or in the block that the worker asked for, whose number plus one is the value; an
    /// array's value is its block's number.
    pub type_index: i32,
    pub length: u32,
    pub value: u64,
    /// When the function began and how long it took, in ticks, if that was asked for.
    pub start: u64,
    pub ticks: u64,
    /// What block is wanted; its shape is in the room.
    pub dtype: DType,
    pub ndim: u32,
    /// Something was printed since the last reply.
    pub printed: u32,
    pub zero: u32,
}

impl ReplyHead {
    /// Of a running call that asks for something.
    #[must_use]
    pub fn asking(what: u32) -> Self {
        Self {
            what,
            status: 0,
            kind: 0,
            argument: -1,
            type_index: nif::abi::type_index::NONE,
            length: 0,
            value: 0,
            start: 0,
            ticks: 0,
            dtype: DType { code: 0, bits: 0, lanes: 0 },
            ndim: 0,
            printed: 0,
            zero: 0,
        }
    }
}

/// What the worker answers.
#[repr(C)]
pub struct Reply {
    pub head: ReplyHead,
    pub room: [u64; ROOM / 8],
}

/// How long to look before going to sleep.
///
/// Looking pays while the other side answers at once, and costs dearly where both share a processor, since the other side
/// can't answer then. So each look in vain is followed by twice as many waits without one.
pub struct Patience {
    limit: Duration,
    skip: u32,
    penalty: u32,
}

/// Waits without a look, at most.
const PENALTY_MAX: u32 = 255;
/// Looks between two glances at the clock; without a pause the first time, since the quickest answers come within those.
const LOOKS: u32 = 256;

impl Patience {
    /// `limit`: how long one look may take.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let alone = std::thread::available_parallelism().is_ok_and(|it| it.get() == 1);
        Self { limit: if alone { Duration::ZERO } else { limit }, skip: 0, penalty: 0 }
    }

    /// Look until the number isn't `seen` any more: whether that came to be.
    #[inline]
    pub fn look(&mut self, bell: &Doorbell, seen: u32) -> bool {
        if bell.look() != seen {
            return true;
        }
        if self.skip > 0 || self.limit.is_zero() {
            self.skip = self.skip.saturating_sub(1);
            return false;
        }
        for _ in 0..LOOKS {
            if bell.look() != seen {
                self.penalty = 0;
                return true;
            }
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS / 4 {
                if bell.look() != seen {
                    self.penalty = 0;
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= self.limit {
                self.penalty = (self.penalty * 2 + 1).min(PENALTY_MAX);
                self.skip = self.penalty;
                return false;
            }
        }
    }
}

/// How far a call is.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Progress {
    pub done: AtomicI64,
    pub total: AtomicI64,
}

/// What a dying worker says of itself.
#[repr(C, align(64))]
pub struct LastWords {
    pub signal: AtomicU32,
    pub address: AtomicU64,
}

/// All of it.
#[repr(C)]
pub struct Channel {
    pub request_bell: Doorbell,
    pub reply_bell: Doorbell,
    /// Becomes 1 when the running call should stop.
    pub cancel: AtomicI32,
    /// The processor on which the host went to sleep last.
    pub host_cpu: AtomicI32,
    /// The last request whose function was entered: a later one can be made again elsewhere, whatever it does.
    pub begun: AtomicU32,
    /// How far the running call is, as it says: steps that are done, and all of them; 0 of 0 where it says nothing.
    pub progress: Progress,
    pub last_words: LastWords,
    request: UnsafeCell<Request>,
    reply: UnsafeCell<Reply>,
}

// SAFETY: the bells say whose turn it is to touch the request and the reply.
unsafe impl Sync for Channel {}

impl Channel {
    /// The request: the host's to write before it rings, the worker's to read after.
    pub fn request(&self) -> *mut Request {
        self.request.get()
    }

    /// The reply: the worker's to write before it rings, the host's to read after.
    pub fn reply(&self) -> *mut Reply {
        self.reply.get()
    }
}

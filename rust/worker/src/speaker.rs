//! What workers write while they run no call, on its way to this process's standard output and standard error.
//!
//! Somebody may have stopped reading there, so a thread of its own writes, and may wait for ever. Nobody else does: what has no
//! room in the queue is dropped, oldest first.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use nif_memory::Own;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// How much may wait to be written.
pub const ROOM: usize = 256 << 10;

/// Text that waits, at most so much of it: the latest.
#[derive(Debug, Default)]
pub struct Queue {
    text: VecDeque<u8>,
    /// Bytes that were dropped before it.
    dropped: u64,
}

impl Queue {
    /// Add text at the end; drop as much from the beginning as doesn't fit.
    pub fn put(&mut self, text: &[u8]) {
        let kept = &text[text.len().saturating_sub(ROOM)..];
        let excess = (self.text.len() + kept.len()).saturating_sub(ROOM);
        self.text.drain(..excess);
        self.text.extend(kept);
        self.dropped += (excess + text.len() - kept.len()) as u64;
    }

    /// The next piece to be written, with a line that says how much is missing before it; none if nothing waits.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.text.is_empty() {
            return None;
        }
        let mut piece = Vec::new();
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            piece = format!("\n[nif_lab: {dropped} bytes that workers wrote are left out here]\n").into_bytes();
        }
        piece.extend(self.text.drain(..self.text.len().min(4096)));
        Some(piece)
    }
}

#[derive(Default)]
struct Speaker {
    queue: Mutex<(Queue, bool)>,
    more: Condvar,
}

/// Where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Output,
    Error,
}

static OUTPUT: Own<Speaker> = Own::new();
static ERROR: Own<Speaker> = Own::new();

fn speaker(stream: Stream) -> &'static Speaker {
    let speaker = if stream == Stream::Output { &OUTPUT } else { &ERROR };
    speaker.get(|_| Speaker::default())
}

/// Have text written there, without waiting for that.
pub fn say(stream: Stream, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let speaker = speaker(stream);
    let mut guard = speaker.queue.lock().unwrap_or_else(PoisonError::into_inner);
    guard.0.put(text);
    if !guard.1 {
        let thread = std::thread::Builder::new().name("nif_lab says".into()).stack_size(128 << 10);
        guard.1 = thread.spawn(move || write_all(stream)).is_ok();
    }
    drop(guard);
    speaker.more.notify_one();
}

/// The thread: it ends with the process.
fn write_all(stream: Stream) {
    let speaker = speaker(stream);
    loop {
        let guard = speaker.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard =
            speaker.more.wait_while(guard, |it| it.0.text.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let piece = guard.0.take().unwrap_or_default();
        drop(guard);
        write(stream, &piece);
    }
}

/// Not by `io`'s streams: their locks would stop whoever else writes there.
fn write(stream: Stream, mut piece: &[u8]) {
    let to = if stream == Stream::Output { rustix::stdio::stdout() } else { rustix::stdio::stderr() };
    while !piece.is_empty() {
        match rustix::io::write(to, piece) {
            Ok(length) => piece = &piece[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.take()).flatten().collect()
    }

    #[test]
    fn what_fits_comes_out_as_it_came() {
        let mut queue = Queue::default();
        assert!(queue.take().is_none());
        let text: Vec<u8> = (0..ROOM).map(|i| (i % 251) as u8).collect();
        for piece in text.chunks(1000) {
            queue.put(piece);
        }
        assert_eq!(all(&mut queue), text);
        queue.put(b"and more");
        assert_eq!(all(&mut queue), b"and more");
    }

    #[test]
    fn the_latest_is_kept_and_the_rest_is_counted() {
        for piece in [1, 999, ROOM - 1, ROOM, 3 * ROOM + 5] {
            let mut queue = Queue::default();
            let mut put = 0;
            while put <= 4 * ROOM {
                queue.put(&vec![b'x'; piece]);
                put += piece;
                assert!(queue.text.len() <= ROOM);
            }
            queue.put(b"the last");
            put += 8;
            let text = String::from_utf8(all(&mut queue)).unwrap();
            assert!(text.ends_with("the last"));
            let kept = text.len() - text.find("]\n").unwrap() - 2;
            let says = format!("[nif_lab: {} bytes that workers wrote are left out here]", put - kept);
            assert!(text.contains(&says), "{}: {}", &text[..80], says);
            assert_eq!(kept, ROOM);
        }
    }
}

//! What a worker writes to its standard output and its standard error, on its way to whoever made the call.

use std::io::{ErrorKind, PipeReader, Read};
use std::time::Instant;

/// How much of each is held at most: a worker that writes more waits until some of it was taken.
pub const HELD: usize = 32 << 10;

/// Which of the two.
pub const OUT: usize = 0;
pub const ERR: usize = 1;

/// What was read of one of them and nobody has seen yet.
#[derive(Debug)]
pub struct Spoken {
    pub held: Vec<u8>,
    /// When the first of it was read.
    pub since: Instant,
    pub is_closed: bool,
}

impl Default for Spoken {
    fn default() -> Self {
        Self { held: Vec::new(), since: Instant::now(), is_closed: false }
    }
}

impl Spoken {
    pub fn is_full(&self) -> bool {
        self.held.len() >= HELD
    }

    /// Read what is there, as much as may be held.
    pub fn listen(&mut self, mut pipe: &PipeReader, most: usize) {
        let mut piece = [0; 8 << 10];
        while !self.is_closed && self.held.len() < most {
            match pipe.read(&mut piece) {
                Ok(0) => self.is_closed = true,
                Ok(length) => {
                    if self.held.is_empty() {
                        self.since = Instant::now();
                    }
                    self.held.extend_from_slice(&piece[..length]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.is_closed = true,
            }
        }
    }

    /// Take what is held; `whole` says that no more of it is to come, so that half a character is taken too.
    pub fn take(&mut self, whole: bool) -> Vec<u8> {
        let half = match std::str::from_utf8(&self.held) {
            Err(error) if !whole && error.error_len().is_none() => error.valid_up_to(),
            _ => self.held.len(),
        };
        let rest = self.held.split_off(half);
        std::mem::replace(&mut self.held, rest)
    }
}

//! Bytes that are written from front to back, and their checksum, which is ready when they are.

use std::ptr;

use super::STREAMED;
use super::stripes::{BLOCK, LONG, Sums, To, checksum};
use super::vectors::VECTOR;

/// Memory being filled. Whole blocks of what is put in are copied and summed in one loop; what falls between blocks is summed
/// from its copy, while that is in the cache.
pub struct Summed<'a> {
    bytes: &'a mut [u8],
    /// What is filled, in bytes.
    at: usize,
    /// Blocks to be added on the way: all but the last one, whole or not. None if there is nothing to sum, or too little.
    blocks: usize,
    /// How many of them are in the sums.
    added: usize,
    sums: Sums,
    how: To,
}

impl<'a> Summed<'a> {
    /// Memory with any contents. Unless it is `summed`, it is only filled.
    #[must_use]
    pub fn new(bytes: &'a mut [u8], summed: bool) -> Self {
        let size = bytes.len();
        let blocks = if summed && size > LONG { (size - 1) / BLOCK } else { 0 };
        let stream = size >= STREAMED && bytes.as_ptr().addr().is_multiple_of(VECTOR);
        let how = if stream { To::Stream } else { To::Copy };
        Self { bytes, at: 0, blocks, added: 0, sums: Sums::new(), how }
    }

    /// How many bytes are filled.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.at
    }

    /// Copies bytes to the next place.
    ///
    /// # Panics
    ///
    /// There is no room for them.
    pub fn put(&mut self, from: &[u8]) {
        let (start, stop) = (self.at, self.at + from.len());
        let (first, after) = (start.div_ceil(BLOCK), (stop / BLOCK).min(self.blocks));
        self.at = stop;
        if first >= after {
            return self.bytes[start..stop].copy_from_slice(from);
        }
        let (head, blocks) = (first * BLOCK - start, after - first);
        let tail = head + blocks * BLOCK;
        self.bytes[start..first * BLOCK].copy_from_slice(&from[..head]);
        self.catch_up(first);
        let to = &mut self.bytes[start..stop];
        // SAFETY: both have that many blocks; a stream begins at a multiple of its vectors, and so does each block of it.
        unsafe { self.sums.add_blocks(self.how, to[head..].as_mut_ptr(), from[head..].as_ptr(), blocks) };
        self.added = after;
        to[tail..].copy_from_slice(&from[tail..]);
    }

    /// Fills the next bytes with zeros.
    ///
    /// # Panics
    ///
    /// There is no room for them.
    pub fn zeros(&mut self, count: usize) {
        let start = self.at;
        self.at += count;
        self.bytes[start..self.at].fill(0);
    }

    /// The checksum of all bytes: XXH3-64, seed 0.
    ///
    /// # Panics
    ///
    /// They aren't all filled.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        assert!(self.at == self.bytes.len(), "{} of {} bytes are filled", self.at, self.bytes.len());
        if self.blocks == 0 {
            return checksum(self.bytes);
        }
        self.catch_up(self.blocks);
        self.sums.finish(self.bytes)
    }

    /// Adds the blocks before that one, which are filled.
    fn catch_up(&mut self, block: usize) {
        let late = &self.bytes[self.added * BLOCK..block * BLOCK];
        // SAFETY: there are that many blocks, and nothing is written.
        unsafe { self.sums.add_blocks(To::Nowhere, ptr::null_mut(), late.as_ptr(), block - self.added) };
        self.added = block;
    }
}

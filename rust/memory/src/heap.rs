//! Which parts of a segment are in use: two-level segregated fit (Masmano et al., 2004), kept outside the segment.
//!
//! Offsets and sizes are in granules of 64 bytes. Pieces lie one after the other and know their neighbours; free ones are
//! listed by size, so that allocation, release and joining take constant time. Whoever can write to the segment can't
//! damage any of this.

use std::collections::TryReserveError;

use crate::{ALIGNMENT, page};

/// No piece.
const NONE: u32 = u32::MAX;
/// Lists for the sizes of one octave.
const STEPS: u32 = 16;
const OCTAVES: u32 = 32;

/// One piece of the segment, free or in use.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub offset: u32,
    pub size: u32,
    /// Neighbours in the segment.
    before: u32,
    after: u32,
    /// Neighbours in a list of free pieces.
    previous: u32,
    next: u32,
    /// From here to its end the piece is known to be zeros.
    pub dirty_to: u32,
    /// Neither in use nor listed.
    is_held: bool,
    /// Of the block that lies here; 0 when free. It has 64 bits, so that none comes a second time.
    pub generation: u64,
    /// Bytes asked for.
    pub requested: usize,
}

const _: () = assert!(size_of::<Piece>() * 5 / 4 + size_of::<u32>() <= 64, "what is kept for a block");

impl Piece {
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.generation != 0
    }

    fn end(&self) -> u32 {
        self.offset + self.size
    }
}

/// The pieces of one segment.
#[derive(Debug)]
pub struct Heap {
    pieces: Vec<Piece>,
    /// Unused places in `pieces`, linked by `next`.
    unused: u32,
    octaves: u32,
    steps: [u32; OCTAVES as usize],
    lists: Vec<[u32; STEPS as usize]>,
}

/// The list for pieces of exactly this size or a little more.
fn list_of(size: u32) -> (u32, u32) {
    if size < STEPS {
        return (0, size);
    }
    let octave = size.ilog2();
    (octave - STEPS.ilog2() + 1, size >> (octave - STEPS.ilog2()) & (STEPS - 1))
}

impl Heap {
    /// All of it in one free piece.
    ///
    /// # Errors
    /// When there is no memory for what is kept about the pieces.
    pub fn new(size: u32) -> Result<Self, TryReserveError> {
        let mut lists = Vec::new();
        lists.try_reserve_exact(OCTAVES as usize)?;
        lists.resize(OCTAVES as usize, [NONE; STEPS as usize]);
        let mut heap = Self { pieces: Vec::new(), unused: NONE, octaves: 0, steps: [0; OCTAVES as usize], lists };
        heap.reserve()?;
        let whole = heap.add(0, size, 0);
        heap.list(whole);
        Ok(heap)
    }

    /// Make room for one more piece. It grows by a quarter: more would be kept in vain.
    fn reserve(&mut self) -> Result<(), TryReserveError> {
        if self.unused == NONE && self.pieces.len() == self.pieces.capacity() {
            self.pieces.try_reserve_exact((self.pieces.len() / 4).max(64))?;
        }
        Ok(())
    }

    fn get(&mut self, index: u32) -> &mut Piece {
        &mut self.pieces[index as usize]
    }

    #[must_use]
    pub fn piece(&self, index: u32) -> &Piece {
        &self.pieces[index as usize]
    }

    /// Bytes that all this takes.
    #[must_use]
    pub fn metadata(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>()
            + self.lists.len() * size_of::<[u32; STEPS as usize]>()
            + size_of::<Self>()
    }

    /// All pieces in the order of their offsets.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Piece)> {
        // The first piece stays the first: it is only ever joined with those after it.
        let mut index = if self.pieces.is_empty() { NONE } else { 0 };
        std::iter::from_fn(move || {
            let current = index;
            let piece = self.pieces.get(current as usize)?;
            index = piece.after;
            Some((current, piece))
        })
    }

    /// There is room: `reserve` was called.
    fn add(&mut self, offset: u32, size: u32, dirty_to: u32) -> u32 {
        let piece = Piece {
            offset,
            size,
            before: NONE,
            after: NONE,
            previous: NONE,
            next: NONE,
            dirty_to,
            is_held: false,
            generation: 0,
            requested: 0,
        };
        if self.unused == NONE {
            self.pieces.push(piece);
            return u32::try_from(self.pieces.len() - 1).unwrap_or(NONE);
        }
        let index = self.unused;
        self.unused = self.get(index).next;
        *self.get(index) = piece;
        index
    }

    fn list(&mut self, index: u32) {
        let (octave, step) = list_of(self.get(index).size);
        let head = self.lists[octave as usize][step as usize];
        let piece = self.get(index);
        (piece.previous, piece.next) = (NONE, head);
        if head != NONE {
            self.get(head).previous = index;
        }
        self.lists[octave as usize][step as usize] = index;
        self.steps[octave as usize] |= 1 << step;
        self.octaves |= 1 << octave;
    }

    fn unlist(&mut self, index: u32) {
        let Piece { size, previous, next, .. } = *self.get(index);
        if next != NONE {
            self.get(next).previous = previous;
        }
        if previous != NONE {
            self.get(previous).next = next;
            return;
        }
        let (octave, step) = list_of(size);
        self.lists[octave as usize][step as usize] = next;
        if next == NONE {
            self.steps[octave as usize] &= !(1 << step);
            if self.steps[octave as usize] == 0 {
                self.octaves &= !(1 << octave);
            }
        }
    }

    /// A free piece that is large enough, by the lists alone; the first list may hold smaller ones and is searched.
    fn find(&self, size: u32) -> Option<u32> {
        let (octave, step) = list_of(size);
        let mut index = self.lists[octave as usize][step as usize];
        // Close fits waste least; a few looks bound the time.
        for _ in 0..8 {
            if index == NONE {
                break;
            }
            if self.piece(index).size >= size {
                return Some(index);
            }
            index = self.piece(index).next;
        }
        let larger = self.steps[octave as usize] & (u32::MAX << step << 1);
        let (octave, steps) = if larger != 0 {
            (octave, larger)
        } else {
            let octaves = self.octaves & u32::MAX.checked_shl(octave + 1).unwrap_or(0);
            if octaves == 0 {
                return None;
            }
            (octaves.trailing_zeros(), self.steps[octaves.trailing_zeros() as usize])
        };
        Some(self.lists[octave as usize][steps.trailing_zeros() as usize])
    }

    /// Take a piece of this size. None either if there is no memory for what is kept about the rest.
    pub fn allocate(&mut self, size: u32) -> Option<u32> {
        self.reserve().ok()?;
        let index = self.find(size)?;
        self.unlist(index);
        let whole = *self.get(index);
        if whole.size > size {
            let middle = whole.offset + size;
            let rest = self.add(middle, whole.size - size, whole.dirty_to.max(middle));
            (self.get(rest).before, self.get(rest).after) = (index, whole.after);
            if whole.after != NONE {
                self.get(whole.after).before = rest;
            }
            let piece = self.get(index);
            (piece.size, piece.after, piece.dirty_to) = (size, rest, whole.dirty_to.min(middle));
            self.list(rest);
        }
        Some(index)
    }

    /// Give a piece back; it joins its free neighbours.
    pub fn release(&mut self, index: u32) {
        let piece = self.get(index);
        piece.generation = 0;
        piece.dirty_to = piece.end();
        let Piece { before, after, .. } = *piece;
        let mut index = index;
        if after != NONE && self.is_listed(after) {
            self.unlist(after);
            self.join(index, after);
        }
        if before != NONE && self.is_listed(before) {
            self.unlist(before);
            self.join(before, index);
            index = before;
        }
        self.list(index);
    }

    /// Is it free, and not held back for a block of its size?
    fn is_listed(&self, index: u32) -> bool {
        let piece = self.piece(index);
        !piece.is_live() && !piece.is_held
    }

    fn join(&mut self, first: u32, second: u32) {
        let gone = *self.get(second);
        let piece = self.get(first);
        piece.size += gone.size;
        piece.after = gone.after;
        if gone.dirty_to > gone.offset {
            piece.dirty_to = gone.dirty_to;
        }
        if gone.after != NONE {
            self.get(gone.after).before = first;
        }
        self.get(second).next = self.unused;
        self.unused = second;
    }

    /// Mark a piece as in use by a block, whose elements may be anything from now on.
    pub fn occupy(&mut self, index: u32, generation: u64, requested: usize) {
        let piece = self.get(index);
        (piece.generation, piece.is_held, piece.requested) = (generation, false, requested);
        piece.dirty_to = piece.end();
    }

    /// A process that may write to this piece may write to all of its pages: nothing free there is known to be zeros any more.
    pub fn soil(&mut self, index: u32) {
        let piece = *self.piece(index);
        let page = u32::try_from(page() / ALIGNMENT).unwrap_or(1);
        let (start, end) = (piece.offset / page * page, piece.end().next_multiple_of(page));
        let mut at = piece.before;
        while at != NONE && self.piece(at).end() > start {
            let neighbour = self.get(at);
            if !neighbour.is_live() {
                neighbour.dirty_to = neighbour.end();
            }
            at = neighbour.before;
        }
        at = piece.after;
        while at != NONE && self.piece(at).offset < end {
            let neighbour = self.get(at);
            if !neighbour.is_live() {
                neighbour.dirty_to = neighbour.dirty_to.max(neighbour.end().min(end));
            }
            at = neighbour.after;
        }
    }

    /// Hold a released piece back for the next block of its size: neither in use nor listed.
    pub fn hold(&mut self, index: u32) {
        let piece = self.get(index);
        (piece.generation, piece.is_held) = (0, true);
    }

    /// Release a piece that is held back or in use.
    pub fn let_go(&mut self, index: u32) {
        self.get(index).is_held = false;
        self.release(index);
    }

    /// A free piece now reads as zeros.
    pub fn clean(&mut self, index: u32) {
        let piece = self.get(index);
        piece.dirty_to = piece.offset;
    }
}

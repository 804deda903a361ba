//! Which piece begins at an offset: a hash table of piece numbers, without the offsets, which the pieces know themselves.

use std::collections::TryReserveError;

/// An empty place.
const NONE: u32 = u32::MAX;
const SMALLEST: usize = 16;

/// Piece numbers by their offsets, with linear probing; at least a quarter of the places is empty.
#[derive(Debug, Default)]
pub struct Index {
    places: Vec<u32>,
    count: usize,
}

impl Index {
    /// Bytes that it takes.
    #[must_use]
    pub fn metadata(&self) -> usize {
        self.places.capacity() * size_of::<u32>()
    }

    fn home(&self, offset: u32) -> usize {
        offset.wrapping_mul(0x9E37_79B1) as usize >> (u32::BITS - self.places.len().ilog2())
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    /// Make room for one more.
    ///
    /// # Errors
    ///
    /// When there is no memory for a larger table; nothing has changed then.
    pub fn reserve(&mut self, offset_of: impl Fn(u32) -> u32) -> Result<(), TryReserveError> {
        if (self.count + 1) * 4 <= self.places.len() * 3 {
            return Ok(());
        }
        let size = (self.places.len() * 2).max(SMALLEST);
        let mut places = Vec::new();
        places.try_reserve_exact(size)?;
        places.resize(size, NONE);
        let old = std::mem::replace(&mut self.places, places);
        self.count = 0;
        for piece in old.into_iter().filter(|it| *it != NONE) {
            self.insert(offset_of(piece), piece);
        }
        Ok(())
    }

    /// Note that a piece begins at an offset where none did. There is room: `reserve` was asked.
    pub fn insert(&mut self, offset: u32, piece: u32) {
        let mut place = self.home(offset);
        while self.places[place] != NONE {
            place = self.after(place);
        }
        self.places[place] = piece;
        self.count += 1;
    }

    fn place(&self, offset: u32, offset_of: impl Fn(u32) -> u32) -> Option<usize> {
        let mut place = if self.places.is_empty() { return None } else { self.home(offset) };
        while self.places[place] != NONE {
            if offset_of(self.places[place]) == offset {
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    /// The piece that begins at an offset.
    pub fn get(&self, offset: u32, offset_of: impl Fn(u32) -> u32) -> Option<u32> {
        self.place(offset, offset_of).map(|place| self.places[place])
    }

    /// Forget the piece at an offset; those behind it move up, so that no search ends too early.
    pub fn remove(&mut self, offset: u32, offset_of: impl Fn(u32) -> u32) {
        let Some(mut hole) = self.place(offset, &offset_of) else { return };
        let mask = self.places.len() - 1;
        let mut place = self.after(hole);
        while self.places[place] != NONE {
            let home = self.home(offset_of(self.places[place]));
            // May it stand at the hole? Not if its home lies behind the hole.
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(hole) & mask {
                self.places[hole] = self.places[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.places[hole] = NONE;
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_is_a_map() {
        let mut random = 1_u32;
        let mut offsets = Vec::new();
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for _ in 0..100_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let offset = (random >> 16) % 3000;
            if model.remove(&offset).is_some() {
                index.remove(offset, |piece: u32| offsets[piece as usize]);
            } else {
                offsets.push(offset);
                let piece = u32::try_from(offsets.len() - 1).unwrap();
                index.reserve(|piece| offsets[piece as usize]).unwrap();
                index.insert(offset, piece);
                model.insert(offset, piece);
            }
            assert_eq!(index.get(offset, |piece| offsets[piece as usize]), model.get(&offset).copied());
        }
        for offset in 0..3000 {
            assert_eq!(index.get(offset, |piece| offsets[piece as usize]), model.get(&offset).copied());
        }
        assert!(index.metadata() <= 4096 * 4);
    }
}

//! A test's own random numbers (splitmix64); the seed shows if it fails.

#![allow(dead_code, reason = "each test uses some of it")]

/// Same seed, same numbers: `NIF_LAB_SEED=1234 cargo test` repeats a run.
pub struct Random(u64);

impl Random {
    pub fn new(test: &str) -> Self {
        let now = || std::time::UNIX_EPOCH.elapsed().map_or(0, |it| u64::from(it.subsec_nanos()));
        let seed = std::env::var("NIF_LAB_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or_else(now);
        println!("{test}: NIF_LAB_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of the bits")]
    pub fn word(&mut self) -> u32 {
        self.next() as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than a usize")]
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn text(&mut self, most: usize) -> String {
        const LETTERS: [char; 8] = ['a', 'Z', '0', ' ', '\n', '\0', 'é', '🦀'];
        (0..self.below(most + 1)).map(|_| LETTERS[self.below(LETTERS.len())]).collect()
    }
}

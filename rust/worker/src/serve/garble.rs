//! Nonsense in place of an answer, to see what a host makes of it.

use super::Server;
use crate::channel::Reply;

impl Server {
    /// Answer nonsense: the same for the same seed.
    pub fn garble(&mut self, seed: u32) {
        let mut state = u64::from(seed);
        let mut next = || {
            // splitmix64
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        };
        let reply = self.channel.reply().cast::<u64>();
        for i in 0..size_of::<Reply>() / 8 {
            // SAFETY: the reply is ours until the bell rings.
            unsafe { reply.add(i).write(next()) };
        }
        self.answer();
    }
}

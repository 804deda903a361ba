//! The copy ledger: every copy that a call had to make, with its bytes and its reason.

/// Why bytes were copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An argument that isn't in shared memory, on its way to a worker.
    NotInPool,
    /// The same on its way back, after the function may have written to it.
    Written,
    /// A text too long for a request.
    Text,
}

impl Reason {
    pub const ALL: [Self; 3] = [Self::NotInPool, Self::Written, Self::Text];

    pub fn text(self) -> &'static str {
        match self {
            Self::NotInPool => "argument not in a pool",
            Self::Written => "argument not in a pool, written by the function",
            Self::Text => "text too long for a request",
        }
    }
}

/// Copies and bytes by reason.
#[derive(Default)]
pub struct Ledger {
    sums: [(u64, u64); Reason::ALL.len()],
}

impl Ledger {
    pub fn note(&mut self, bytes: usize, reason: Reason) {
        let sum = &mut self.sums[reason as usize];
        sum.0 += 1;
        sum.1 += bytes as u64;
    }

    /// Reason, copies and bytes each.
    pub fn sums(&self) -> Vec<(&'static str, u64, u64)> {
        Reason::ALL.into_iter().zip(self.sums).map(|(reason, (copies, bytes))| (reason.text(), copies, bytes)).collect()
    }
}

//! Where everything lies in the telemetry segment: docs/telemetry.md.

pub const VERSION: u32 = 2;
pub const MAX_BACKENDS: usize = 16;
pub const MAX_FUNCTIONS: usize = 1024;
/// Calls of one backend that its ring keeps; timed calls, samples and errors that the others keep.
pub const CALLS: usize = 1024;
pub const TIMES: usize = 10_000;
pub const SAMPLES: usize = 10_000;
pub const ERRORS: usize = 1_000;

pub const HEADER_BYTES: usize = 256;
pub const BACKEND_BYTES: usize = 64;
pub const FUNCTION_BYTES: usize = 128 + 8 * BUCKETS;
pub const RECORD_BYTES: usize = 32;
pub const ERROR_BYTES: usize = 256;

pub const BACKENDS_AT: usize = HEADER_BYTES;
pub const FUNCTIONS_AT: usize = BACKENDS_AT + MAX_BACKENDS * BACKEND_BYTES;
pub const CALLS_AT: usize = FUNCTIONS_AT + MAX_FUNCTIONS * FUNCTION_BYTES;
pub const TIMES_AT: usize = CALLS_AT + MAX_BACKENDS * CALLS * RECORD_BYTES;
pub const SAMPLES_AT: usize = TIMES_AT + TIMES * RECORD_BYTES;
pub const ERRORS_AT: usize = SAMPLES_AT + SAMPLES * RECORD_BYTES;
pub const SEGMENT_BYTES: usize = ERRORS_AT + ERRORS * ERROR_BYTES;

/// Eight buckets to an octave: a percentile is off by 6 % at most.
pub const BUCKETS: usize = 384;

// Offsets in the header, in words of 8 bytes unless they say otherwise.
pub const NS_PER_TICK: usize = 6;
pub const ENABLED_BYTE: usize = 56;
pub const CELL_BYTE: usize = 60;
pub const N_BACKENDS_BYTE: usize = 64;
pub const N_FUNCTIONS_BYTE: usize = 68;
pub const TIMES_HEAD: usize = 16;
pub const SAMPLES_HEAD: usize = 17;
pub const ERRORS_HEAD: usize = 18;
/// Peak, committed bytes and collections.
pub const EXTENT: usize = 19;

//! Which processor a worker runs on.
//!
//! The system likes to wake a process where its waker runs. A host and a worker that share a processor can't look for each
//! other's answers, so they sleep and wake each other there for ever, beside an idle one.

/// Where this thread runs now.
pub fn processor() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::sched_getcpu() }
}

/// How often a worker finds itself on its host's processor before it steps aside.
const FEW: u32 = 8;
const MANY: u32 = 4096;

/// A worker's habit of stepping aside.
pub struct Aside {
    met: u32,
    limit: u32,
}

impl Aside {
    pub fn new() -> Self {
        Self { met: 0, limit: FEW }
    }

    /// The worker has slept, and its host too, on that processor. Where they keep meeting, the worker goes elsewhere, less and
    /// less often if that doesn't help.
    pub fn met(&mut self, host: i32) {
        if host != processor() {
            self.met = 0;
            return;
        }
        self.met += 1;
        if self.met >= self.limit {
            self.met = 0;
            self.limit = (self.limit * 2).min(MANY);
            step_aside(host);
        }
    }

    /// The two look for each other's answers with success.
    pub fn apart(&mut self) {
        (self.met, self.limit) = (0, FEW);
    }
}

impl Default for Aside {
    fn default() -> Self {
        Self::new()
    }
}

/// Leave a processor, if there is another that this thread may use. It may come back at once.
fn step_aside(processor: i32) {
    // SAFETY: zeroed is an empty set; the calls fill, copy and read it.
    unsafe {
        let mut all: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of_val(&all);
        if libc::sched_getaffinity(0, size, &raw mut all) != 0 || libc::CPU_COUNT(&all) < 2 {
            return;
        }
        let mut others = all;
        libc::CPU_CLR(usize::try_from(processor).unwrap_or(0), &mut others);
        if libc::sched_setaffinity(0, size, &raw const others) == 0 {
            libc::sched_setaffinity(0, size, &raw const all);
        }
    }
}

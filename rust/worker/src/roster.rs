//! Which workers a crew has and which it should have: the states, without a process or a thread.
//!
//! ```text
//! wanted -> starting -> ready -> taken -> ended
//!              |          `-----------------^
//!              `-> refused, or ended and tried again
//! ```

use std::collections::VecDeque;

use nif_loader::library::Refusal;

/// So many starts are tried if somebody kills the worker meanwhile.
pub const START_TRIES: u32 = 10;

/// Why no worker is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: String,
    pub cure: String,
    /// The system had none of something just now: the next start may go well.
    pub may_pass: bool,
}

impl From<Refusal> for Refused {
    fn from((reason, cure): Refusal) -> Self {
        Self { reason, cure, may_pass: false }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Start a worker: it is counted as starting.
    Start,
    /// Wait until something happens.
    Wait,
    /// End all workers, then end.
    End,
}

/// What a caller that looks for a worker gets.
#[derive(PartialEq, Eq, Debug)]
pub enum Answer<W> {
    Taken(W),
    Refused(Refused),
    /// One was ordered; ask again when something has changed.
    Wait,
}

/// The workers of one backend, by their states.
#[derive(Debug)]
pub struct Roster<W> {
    ready: VecDeque<W>,
    /// How many should be ready.
    wanted: usize,
    starting: usize,
    /// Why the last one that was started isn't ready.
    refused: Option<Refused>,
    /// How many in a row were killed by somebody while they started.
    killed: u32,
    /// Whether one was ever taken.
    has_served: bool,
    is_closed: bool,
    /// How many were ever started.
    started: u64,
}

impl<W> Default for Roster<W> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            wanted: 0,
            starting: 0,
            refused: None,
            killed: 0,
            has_served: false,
            is_closed: false,
            started: 0,
        }
    }
}

impl<W: PartialEq> Roster<W> {
    /// Have so many ready from now on, and one to begin with.
    pub fn prepare(&mut self, spares: usize) {
        self.wanted = spares.max(1);
    }

    /// What the crew's thread does next.
    pub fn next_step(&mut self) -> Next {
        if self.is_closed {
            return Next::End;
        }
        if self.ready.len() + self.starting >= self.wanted {
            return Next::Wait;
        }
        self.starting += 1;
        self.started += 1;
        Next::Start
    }

    /// A worker that was starting is ready.
    pub fn enter(&mut self, worker: W) {
        self.starting -= 1;
        self.killed = 0;
        if !self.is_closed {
            self.ready.push_back(worker);
        }
    }

    /// A worker that was starting won't be ready, and the next one wouldn't either.
    pub fn refuse(&mut self, why: Refused) {
        self.starting -= 1;
        self.killed = 0;
        self.wanted = 0;
        self.refused = Some(why);
    }

    /// A worker that was starting was killed by somebody: whether another may be started.
    #[must_use]
    pub fn may_start_again(&mut self) -> bool {
        self.killed += 1;
        let may = self.killed < START_TRIES;
        self.starting -= usize::from(may);
        may
    }

    /// A worker has ended that may have been ready.
    pub fn leave(&mut self, worker: &W) {
        self.ready.retain(|it| it != worker);
    }

    /// A caller begins to look for a worker: what was refused before, perhaps long ago, says nothing about the next one.
    pub fn seek(&mut self) {
        if self.has_served {
            self.refused = None;
        }
    }

    /// A worker that is ready, why there is none, or that one was ordered.
    pub fn take(&mut self, spares: usize) -> Answer<W> {
        if let Some(worker) = self.ready.pop_front() {
            self.wanted = spares;
            self.has_served = true;
            return Answer::Taken(worker);
        }
        if let Some(refused) = self.refused.take() {
            return Answer::Refused(refused);
        }
        self.wanted = spares.max(1);
        Answer::Wait
    }

    /// Give up those that are ready: others are started in their place.
    pub fn dismiss(&mut self) -> Vec<W> {
        self.ready.drain(..).collect()
    }

    /// Whether `take` has an answer now.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.refused.is_some()
    }

    /// No worker is started any more, and none is given away.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.wanted = 0;
        self.refused = None;
        self.ready.clear();
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// How many are ready, and how many were ever started.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        (self.ready.len(), self.started)
    }
}

/// How often a call is made again whose worker ended before it came to the function.
#[derive(Debug)]
pub struct Tries {
    left: u32,
}

impl Default for Tries {
    fn default() -> Self {
        Self { left: 12 }
    }
}

impl Tries {
    /// Whether it is made again. A worker that somebody killed says nothing about the next one; one that ended by itself may
    /// have ended by the call.
    #[must_use]
    pub fn again(&mut self, was_killed: bool) -> bool {
        self.left = self.left.saturating_sub(if was_killed { 1 } else { 4 });
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(may_pass: bool) -> Refused {
        Refused { reason: "no".into(), cure: "yes".into(), may_pass }
    }

    /// Workers that the roster believes to exist, as a plain model keeps them.
    #[derive(Default)]
    struct Model {
        starting: Vec<u32>,
        ready: Vec<u32>,
        taken: Vec<u32>,
        next: u32,
    }

    /// A small generator, so that a failure can be repeated.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn any_sequence_of_events_keeps_count() {
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        println!("seed {seed}");
        let state = &mut u64::from(seed);
        for _ in 0..300 {
            let spares = (random(state) % 4) as usize;
            let mut roster = Roster::default();
            let mut model = Model::default();
            for step in 0..200 {
                match random(state) % 9 {
                    0 => roster.prepare(spares),
                    1 | 2 => {
                        while roster.next_step() == Next::Start {
                            model.starting.push(model.next);
                            model.next += 1;
                        }
                        assert!(model.starting.len() + model.ready.len() <= spares.max(1), "no more than is wanted");
                    }
                    3 | 4 if !model.starting.is_empty() => {
                        let it = model.starting.remove(0);
                        roster.enter(it);
                        model.ready.push(it);
                    }
                    5 if !model.starting.is_empty() => {
                        model.starting.pop();
                        if random(state).is_multiple_of(2) || !roster.may_start_again() {
                            // One that was killed too often is refused as well.
                            roster.refuse(why(true));
                        }
                    }
                    6 => {
                        roster.seek();
                        match roster.take(spares) {
                            Answer::Taken(it) => {
                                assert_eq!(Some(it), model.ready.first().copied(), "the one that waits longest");
                                model.ready.remove(0);
                                model.taken.push(it);
                            }
                            Answer::Refused(_) | Answer::Wait => assert!(model.ready.is_empty()),
                        }
                    }
                    7 if !model.ready.is_empty() => {
                        let it = model.ready.remove((random(state) as usize) % model.ready.len());
                        roster.leave(&it);
                    }
                    8 if step > 150 && random(state).is_multiple_of(8) => {
                        roster.close();
                        model.ready.clear();
                        assert_eq!(roster.next_step(), Next::End);
                        assert_eq!(roster.take(spares), Answer::Wait, "none is given away");
                        assert_eq!(roster.next_step(), Next::End, "none is started");
                        break;
                    }
                    _ => {}
                }
                assert_eq!(roster.counts(), (model.ready.len(), u64::from(model.next)));
            }
        }
    }

    #[test]
    fn whoever_asks_gets_a_worker_or_a_reason() {
        let mut roster = Roster::<u32>::default();
        assert_eq!(roster.next_step(), Next::Wait, "nobody wants one");
        roster.seek();
        assert_eq!(roster.take(0), Answer::Wait);
        assert_eq!(roster.next_step(), Next::Start);
        assert_eq!(roster.next_step(), Next::Wait);
        roster.refuse(why(false));
        assert_eq!(roster.next_step(), Next::Wait, "the next one wouldn't start either");
        assert_eq!(roster.take(0), Answer::Refused(why(false)));
        assert_eq!(roster.take(0), Answer::Wait, "said once, then tried again");
        assert_eq!(roster.next_step(), Next::Start);
    }

    /// A spare's refusal of long ago is no reason today; one of just now is, though the caller looked away between.
    #[test]
    fn only_a_refusal_of_now_counts() {
        let mut roster = Roster::default();
        roster.prepare(1);
        assert_eq!(roster.next_step(), Next::Start);
        roster.enter(1);
        assert_eq!(roster.take(1), Answer::Taken(1));
        assert_eq!(roster.next_step(), Next::Start);
        roster.refuse(why(true));
        roster.seek();
        assert_eq!(roster.take(1), Answer::Wait);
        assert_eq!(roster.next_step(), Next::Start);
        roster.refuse(why(true));
        assert_eq!(roster.take(1), Answer::Refused(why(true)));
    }

    #[test]
    fn starts_that_are_killed_end() {
        let mut roster = Roster::<u32>::default();
        roster.prepare(1);
        let mut starts = 0;
        loop {
            assert_eq!(roster.next_step(), Next::Start);
            starts += 1;
            if !roster.may_start_again() {
                roster.refuse(why(false));
                break;
            }
        }
        assert_eq!(starts, START_TRIES);
        assert_eq!(roster.next_step(), Next::Wait);
    }

    #[test]
    fn calls_that_never_begin_end() {
        let again = |was_killed| {
            let mut tries = Tries::default();
            (0..1000).take_while(|_| tries.again(was_killed)).count()
        };
        assert_eq!((again(true), again(false)), (11, 2));
    }
}

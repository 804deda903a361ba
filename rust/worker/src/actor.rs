//! The thread of a crew: it owns the sockets, the ends, the standard errors and the timers of a backend's workers.
//!
//! It never waits for anything but all of them at once, and every buffer of it has a bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::crew::{ById, Inner, differs};
use crate::message::FromWorker;
use crate::process::{Heard, Wake, Worker};
use crate::roster::{Next, Refused};
use crate::speaker;
use crate::spoken::{ERR, OUT, Spoken};

/// How long a worker's words are held back: those of one that ends are part of the report of its end.
const HOLD: Duration = Duration::from_millis(200);
/// So many times as much is read after a worker's end: more than a pipe holds.
const LAST: u32 = 64;
/// How long until descriptors are sent again that the system didn't take.
const CROWDED: Duration = Duration::from_millis(5);
/// How often is looked whether the caller has taken what a worker wrote, once no more can be held.
const FULL: Duration = Duration::from_millis(10);
/// How often descriptors are looked at one by one, where the system doesn't look at all of them at once.
const SINGLY: Duration = Duration::from_millis(10);
/// How long a worker may take to open its first source.
pub const START: Duration = Duration::from_secs(120);

/// A worker that the thread watches.
struct Watched {
    worker: Arc<Worker>,
    /// Since when it is starting; none once it has told of its first source.
    starting: Option<Instant>,
    /// Nothing is read from its socket any more.
    is_deaf: bool,
}

/// What `poll` said of a worker.
#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "what `poll` says is that many bits")]
struct Events {
    has_ended: bool,
    said: bool,
    reads: bool,
    writes: bool,
}

/// Run until the crew is closed and every worker has been reaped.
pub fn run(inner: &Inner, wake: &Arc<Wake>) {
    let mut all: Vec<Watched> = Vec::new();
    loop {
        let next = inner.roster().next_step();
        match next {
            Next::Start => {
                start(inner, wake, &mut all);
                continue;
            }
            Next::End if all.is_empty() => return,
            Next::End => all.iter().for_each(|it| it.worker.kill()),
            Next::Wait => {}
        }
        let events = wait(wake, &all);
        let mut rest = Vec::with_capacity(all.len());
        for (mut it, events) in all.into_iter().zip(events) {
            if look_after(inner, &mut it, events) {
                rest.push(it);
            }
        }
        all = rest;
    }
}

fn start(inner: &Inner, wake: &Arc<Wake>, all: &mut Vec<Watched>) {
    let used = inner.used().clone();
    match Worker::start(&inner.recipe, wake, &used) {
        Ok(worker) => {
            let worker = Arc::new(worker);
            inner.living().push(Arc::clone(&worker));
            all.push(Watched { worker, starting: Some(Instant::now()), is_deaf: false });
        }
        Err(error) => inner.refuse(error.refused(&inner.recipe)),
    }
}

/// Sleep until something happens: what, for each worker.
fn wait(wake: &Wake, all: &[Watched]) -> Vec<Events> {
    let mut descriptors = vec![PollFd::new(wake, PollFlags::IN)];
    let mut limit: Option<Duration> = None;
    let mut pipes = Vec::with_capacity(all.len());
    let mut at_most = |other: Duration| limit = Some(limit.map_or(other, |it| it.min(other)));
    for it in all {
        descriptors.push(PollFd::from_borrowed_fd(it.worker.pidfd(), PollFlags::IN));
        let listened = it.worker.listened();
        for pipe in listened.iter().flatten() {
            descriptors.push(PollFd::from_borrowed_fd(*pipe, PollFlags::IN));
        }
        pipes.push(listened.iter().flatten().count());
        if !it.is_deaf {
            let (has_mail, is_crowded) = it.worker.has_mail();
            let out = if has_mail && !is_crowded { PollFlags::OUT } else { PollFlags::empty() };
            descriptors.push(PollFd::from_borrowed_fd(it.worker.socket(), PollFlags::IN | out));
            if is_crowded {
                at_most(CROWDED);
            }
        }
        for spoken in it.worker.spoken().iter().filter(|it| !it.held.is_empty()) {
            let left = HOLD.saturating_sub(spoken.since.elapsed());
            at_most(if spoken.is_full() {
                FULL
            } else if it.worker.is_busy() {
                left.max(FULL)
            } else {
                left
            });
        }
        if let Some(since) = it.starting {
            at_most(START.saturating_sub(since.elapsed()));
        }
    }
    let limit = limit.map(|it| Timespec { tv_sec: it.as_secs().cast_signed(), tv_nsec: it.subsec_nanos().into() });
    if poll(&mut descriptors, limit.as_ref()).is_err_and(|error| error != Errno::INTR) {
        // The limit of open files may have been lowered below their number: then only fewer at once can be looked at.
        std::thread::sleep(SINGLY);
        for one in &mut descriptors {
            let _ = poll(std::slice::from_mut(one), Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        }
    }
    wake.clear();
    let mut seen = descriptors.iter().skip(1).map(PollFd::revents);
    let mut next =
        |is_there: bool| if is_there { seen.next().unwrap_or(PollFlags::empty()) } else { PollFlags::empty() };
    all.iter()
        .zip(pipes)
        .map(|(it, pipes)| {
            let end = next(true);
            let said = (0..pipes).fold(PollFlags::empty(), |all, _| all | next(true));
            let socket = next(!it.is_deaf);
            Events {
                has_ended: !end.is_empty(),
                said: !said.is_empty(),
                reads: socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
                writes: socket.contains(PollFlags::OUT) || it.worker.has_mail().1,
            }
        })
        .collect()
}

/// See what is new with a worker: whether it lives.
fn look_after(inner: &Inner, it: &mut Watched, events: Events) -> bool {
    if events.said || events.has_ended {
        it.worker.listen();
    }
    // The last words come after what a pipe may hold before them.
    for _ in 0..LAST {
        if !events.has_ended || !it.worker.spoken().iter().any(Spoken::is_full) {
            break;
        }
        pass_on(&it.worker, Spoken::is_full);
        it.worker.listen();
    }
    if events.reads {
        let heard = it.worker.read_more();
        it.is_deaf = heard != Heard::Sense;
        if heard == Heard::Nonsense {
            // The next answer couldn't be told from it.
            it.worker.kill_because("its library wrote into the socket between the worker and its host");
        }
    }
    if it.starting.is_some()
        && let Some(said) = it.worker.next_said()
    {
        it.starting = None;
        hear(inner, &it.worker, said);
    }
    if events.has_ended {
        let is_closed = inner.roster().is_closed();
        let is_busy = it.worker.is_busy();
        if is_closed || !is_busy {
            pass_on(&it.worker, |_| is_closed); // nobody gets a report, or takes the rest
            let rest = it.worker.spoken()[OUT].take(true);
            speaker::say(speaker::Stream::Output, &rest);
        }
        let last = it.worker.spoken()[ERR].take(true);
        it.worker.keep(&last);
        inner.living().retain(|living| !Arc::ptr_eq(living, &it.worker));
        it.worker.reap();
        inner.roster().leave(&ById(Arc::clone(&it.worker)));
        if it.starting.is_some() {
            inner.give_up_start(&it.worker.exit().cloned().unwrap_or_default());
        }
        return false;
    }
    if events.writes {
        it.worker.send_more();
    }
    if it.worker.is_busy() {
        if it.worker.spoken().iter().any(Spoken::is_full) {
            it.worker.channel().reply_bell.nudge();
        }
        // Whoever opens a library takes nothing.
        pass_on(&it.worker, |it| it.is_full() && it.since.elapsed() >= 4 * HOLD);
    } else {
        pass_on(&it.worker, |it| it.is_full() || it.since.elapsed() >= HOLD);
    }
    if it.starting.is_some_and(|since| since.elapsed() >= START) {
        it.starting = None;
        it.worker.kill();
        let reason = format!("the worker didn't open its library within {} s", START.as_secs());
        inner.refuse(Refused { reason, cure: "nif-lab doctor".into(), may_pass: true });
    }
    true
}

/// What was held back, and is due, is for everybody to see.
fn pass_on(worker: &Worker, is_due: impl Fn(&Spoken) -> bool) {
    let take = |which: usize| {
        let spoken = &mut worker.spoken()[which];
        if !spoken.held.is_empty() && is_due(spoken) { spoken.take(true) } else { Vec::new() }
    };
    let (out, err) = (take(OUT), take(ERR));
    worker.keep(&err);
    speaker::say(speaker::Stream::Output, &out);
    speaker::say(speaker::Stream::Error, &err);
}

/// What a starting worker said of its first source.
fn hear(inner: &Inner, worker: &Arc<Worker>, said: FromWorker) {
    let refused = match said {
        FromWorker::Opened(table) => match table.numbering(inner.table.get_or_init(|| table.clone())) {
            Ok(numbers) => {
                worker.numbers.get_or_init(|| numbers);
                inner.enter(worker);
                return;
            }
            Err(why) => differs(&why),
        },
        FromWorker::Refused(reason, cure) => (reason, cure),
    };
    worker.kill();
    inner.refuse(refused.into());
}

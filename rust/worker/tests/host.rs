//! A host survives its worker, whatever that answers, and however it ends.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nif_memory::{Arena, Config};
use nif_worker::channel::{Argument, Channel, ROOM, Reply, ReplyHead, Request, reply, request};
use nif_worker::crew::{Crew, NoTurn};
use nif_worker::devices::Used;
use nif_worker::line::{Line, State};
use nif_worker::message::{Source, ToWorker};
use nif_worker::process::{Exit, Recipe, Wake, Worker};

mod random;
use random::Random;

/// Longer than anything here takes, unless it hangs.
const LONG: Duration = Duration::from_secs(20);

/// A worker whose end is seen to; the crew does that elsewhere.
struct Kept(Arc<Worker>);

impl Kept {
    /// The real program, with no library to open.
    fn real() -> Self {
        Self::start(env!("CARGO_BIN_EXE_nif_worker"), "none")
    }

    /// A process that never looks at the channel: the test answers in its place.
    fn mute() -> Self {
        Self::start("/bin/sleep", "1000")
    }

    fn start(program: &str, name: &str) -> Self {
        let recipe = Recipe { program: program.into(), name: name.into(), source: None, spares: 0 };
        let wake = Arc::new(Wake::new().unwrap());
        Self(Arc::new(Worker::start(&recipe, &wake, &Used::default()).unwrap()))
    }

    fn line(&self) -> Line {
        Line::new(Arc::clone(&self.0))
    }

    fn channel(&self) -> &Channel {
        self.0.channel()
    }

    /// Wait until it ends by itself.
    fn end(&self) -> &Exit {
        self.0.reap();
        self.0.exit().unwrap()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kill();
        self.0.reap();
    }
}

/// Sets its flag when it goes, also in a panic.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Its bytes lie in the room, or, of a long text, in a block.
fn makes_sense(head: &ReplyHead) -> bool {
    head.length as usize <= ROOM || head.what == reply::DONE && head.value != 0
}

/// Wait for anything but silence.
fn answer(line: &mut Line) -> State {
    let start = Instant::now();
    let mut state = line.look();
    while state == State::Waiting {
        assert!(start.elapsed() < LONG, "no answer");
        state = line.sleep(LONG);
    }
    state
}

/// Fill a reply with bytes of any kind, its head mostly with what could be meant.
fn nonsense(channel: &Channel, random: &mut Random) -> ReplyHead {
    let words = channel.reply().cast::<u64>();
    for i in 0..size_of::<Reply>() / 8 {
        if i * 8 < size_of::<ReplyHead>() || random.below(64) == 0 {
            // SAFETY: inside the channel, and the test has the turn of the worker.
            unsafe { words.add(i).write(random.next()) };
        }
    }
    // SAFETY: as above; every bit pattern is a value.
    let head = unsafe { &mut (*channel.reply()).head };
    if random.below(4) > 0 {
        head.what = [reply::DONE, reply::ALLOCATE, reply::CALL_BACK, 4][random.below(4)];
        let room = u32::try_from(ROOM).unwrap();
        head.length = [0, 1, 8, room, room + 1, u32::MAX][random.below(6)];
        head.ndim = [0, 1, head.length / 8, 1 << 29, u32::MAX][random.below(5)];
    }
    *head
}

#[test]
fn any_reply_is_read_or_refused() {
    let random = &mut Random::new("any_reply_is_read_or_refused");
    let worker = Kept::mute();
    let (mut refused, mut read) = (0, 0);
    for _ in 0..300 {
        let mut line = worker.line();
        let mut number = worker.channel().reply_bell.look();
        // A line counts from 0: the bell of the one before is put back.
        worker.channel().reply_bell.ring(0);
        for _ in 0..random.below(20) {
            assert_eq!(line.look(), State::Waiting);
            let written = nonsense(worker.channel(), random);
            number = worker.channel().reply_bell.look().wrapping_add(1);
            worker.channel().reply_bell.ring(number);
            assert_eq!(answer(&mut line), State::Replied);
            match line.head() {
                Some(head) => {
                    assert!([reply::DONE, reply::ALLOCATE, reply::CALL_BACK, reply::DEVICE].contains(&head.what));
                    assert!(makes_sense(&head), "{head:?}");
                    match head.what {
                        reply::ALLOCATE => assert_eq!(u64::from(head.length), u64::from(head.ndim) * 8),
                        reply::CALL_BACK => assert_eq!(head.length as usize % size_of::<u64>(), 0), // arrays lie behind the values
                        _ => {}
                    }
                    assert_eq!((head.value, head.status), (written.value, written.status));
                    assert_eq!(line.room(head.length).len(), (head.length as usize).min(ROOM));
                    read += 1;
                }
                None => refused += 1,
            }
            assert!(line.room(random.word()).len() <= ROOM);
        }
        worker.channel().reply_bell.ring(number.wrapping_add(2).wrapping_add(random.word() & 0xffff));
        assert_eq!(answer(&mut line), State::Garbage, "it answered out of turn");
    }
    assert!(refused > 500 && read > 100, "{refused} refused, {read} read");
}

#[test]
fn a_reply_that_changes_while_it_is_read_is_one_of_both() {
    let random = &mut Random::new("a_reply_that_changes_while_it_is_read_is_one_of_both");
    let worker = Kept::mute();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // However the scope ends: a failed assertion must end the thread too.
        let _end = Ending(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                nonsense(worker.channel(), random);
            }
        });
        let start = Instant::now();
        let mut line = worker.line();
        while start.elapsed() < Duration::from_millis(200) {
            if let Some(head) = line.head() {
                assert!(makes_sense(&head), "{head:?}");
                assert_eq!(line.room(head.length).len(), (head.length as usize).min(ROOM));
            }
        }
    });
}

#[test]
fn the_end_of_a_worker_wakes_who_waits_for_it() {
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let worker = Kept::mute();
        // What it claims counts only where it fits its end.
        worker.channel().last_words.signal.store(libc::SIGSEGV.cast_unsigned(), Ordering::Relaxed);
        worker.channel().last_words.address.store(0x1234, Ordering::Relaxed);
        let mut line = worker.line();
        assert_eq!(line.look(), State::Waiting);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                // SAFETY: our own child, not reaped yet.
                unsafe { libc::kill(worker.0.pid.cast_signed(), signal) };
                worker.end();
            });
            assert_eq!(answer(&mut line), State::Dead);
        });
        let exit = worker.0.exit().unwrap();
        assert_eq!((exit.signal, exit.code, exit.address), (Some(signal), None, None));
        assert!(exit.to_string().starts_with("SIG"), "{exit}");
    }
}

#[test]
fn a_real_worker_may_answer_nonsense_for_ever() {
    let random = &mut Random::new("a_real_worker_may_answer_nonsense_for_ever");
    let worker = Kept::real();
    let mut line = worker.line();
    let arena = Arena::new(Config::default());
    for i in 0..2_000 {
        // SAFETY: the request is the host's until it rings.
        unsafe {
            let request = line.request();
            (*request).what = request::CALL;
            (*request).mail = line.show(&arena);
            (*request).garble = random.word().max(1);
        }
        line.ring();
        assert_eq!(answer(&mut line), State::Replied);
        assert!(!line.has_begun(), "no function was entered");
        let head = line.head();
        assert!(head.is_none_or(|it| makes_sense(&it)), "{head:?}");
        if i % 100 == 0 {
            arena.allocate(1 << 27, false).unwrap(); // a segment of its own, never seen again
        }
    }
}

#[test]
fn a_worker_that_is_asked_nonsense_says_so_and_ends() {
    let random = &mut Random::new("a_worker_that_is_asked_nonsense_says_so_and_ends");
    for round in 0..20 {
        let worker = Kept::real();
        let mut line = worker.line();
        // SAFETY: numbers, for which zero is a value.
        let mut asked: Argument = unsafe { MaybeUninit::zeroed().assume_init() };
        (asked.kind, asked.segment, asked.mutable) = ([7, 8, 9][random.below(3)], 1 + random.next() / 2, random.word());
        (asked.offset, asked.low, asked.high) = (random.next(), random.next(), random.next());
        // SAFETY: the request is the host's until it rings.
        unsafe {
            let request: *mut Request = line.request();
            (*request).what = request::CALL;
            (*request).function = random.word();
            (*request).count = if round % 2 == 0 { 0 } else { 1 + random.word() % 16 };
            (&raw mut (*request).arguments).cast::<Argument>().write(asked);
        }
        line.ring();
        let exit = worker.end();
        assert_eq!((exit.code, exit.signal), (Some(1), None));
        assert_eq!(answer(&mut line), State::Dead);
        assert!(!line.has_begun());
    }
}

fn crew(program: &str, source: Option<Source>) -> Crew {
    Crew::new(Recipe { program: program.into(), name: "test".into(), source, spares: 1 })
}

#[test]
fn one_has_the_turn_at_a_time() {
    let crew = crew("/nowhere", None);
    let (inside, turns) = (AtomicU32::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let holding = crew.turn(LONG).expect("nobody keeps it");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    turns.fetch_add(1, Ordering::Relaxed);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(holding);
                }
            });
        }
    });
    assert_eq!(turns.load(Ordering::Relaxed), 8_000);
    let _held = crew.turn(Duration::ZERO).unwrap();
    assert_eq!(crew.turn(LONG).err(), Some(NoTurn::Yours), "nobody waits for himself");
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(crew.turn(Duration::from_millis(5)).err(), Some(NoTurn::Taken)));
    });
}

#[test]
fn what_does_not_start_is_refused_with_a_cure() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let text = folder.join("libtext.so");
    std::fs::write(&text, "not a library").unwrap();
    let file = |path: &str| Some(Source::File(path.into()));
    let real = env!("CARGO_BIN_EXE_nif_worker");
    let julia = ["/no/libjulia.so", "/no", "/no", "1"].map(String::from);
    let [library, bindir, image, code] = julia;
    for (program, source, says, cure) in [
        ("/nowhere/nif_worker", file("/lib.so"), "doesn't start", "nif-lab build"),
        (text.to_str().unwrap(), file("/lib.so"), "doesn't start", "nif-lab build"),
        ("/bin/true", file("/lib.so"), "ended while it opened its library, by exit with code 0", "nif-lab doctor"),
        (real, file("/no/such.so"), "No such file", "nif-lab build"),
        (real, file(text.to_str().unwrap()), "not a whole shared library", "nif-lab build"),
        (real, Some(Source::Julia { library, bindir, image, code }), "Julia doesn't start", "nif-lab doctor"),
    ] {
        let crew = crew(program, source);
        for _ in 0..2 {
            let start = Instant::now();
            crew.seek();
            let Err(refused) = crew.take(LONG) else { panic!("{program} started, or nothing was said") };
            assert!(refused.reason.contains(says), "{refused:?}");
            assert!(refused.cure.contains(cure), "{refused:?}");
            assert!(!refused.may_pass);
            assert!(start.elapsed() < LONG);
        }
    }
}

/// A crew whose workers have opened nothing, and one of them.
fn serving(script: &str) -> (Crew, PathBuf) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("worker-{:x}", script.len() * 31 + script.bytes().map(usize::from).sum::<usize>()));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (crew(path.to_str().unwrap(), Some(Source::File("any".into()))), path)
}

/// The message `Opened` with an empty table, as a shell writes it to its standard input, which is the socket.
const OPENED: &str = r"printf '\005\000\000\000\000\000\000\000\000' >&0";

fn ended(pid: u32) -> bool {
    // SAFETY: asks whether the process is there.
    unsafe { libc::kill(pid.cast_signed(), 0) != 0 }
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "waited in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

fn taken(crew: &Crew) -> Line {
    crew.seek();
    crew.take(LONG).expect("it starts").expect("in time")
}

#[test]
fn a_taken_worker_ends_with_its_line() {
    let (crew, _) = serving(&format!("{OPENED}\nexec sleep 1000"));
    for how in 0..3 {
        let line = taken(&crew);
        let pid = line.worker.pid;
        match how {
            0 => drop(line),
            1 => {
                // A caller that panics takes nobody along, and leaves no worker behind.
                let panics = std::panic::AssertUnwindSafe(move || {
                    let _mine = line;
                    std::panic::resume_unwind(Box::new("a fault of the caller's"));
                });
                assert!(std::panic::catch_unwind(panics).is_err());
            }
            _ => {
                crew.turn(LONG).unwrap().line = Some(line);
                assert!(!ended(pid), "it waits for the next call");
                drop(crew.turn(LONG).unwrap().line.take());
            }
        }
        wait_until(|| ended(pid));
    }
}

#[test]
fn what_a_worker_started_ends_with_it() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("grandchildren");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let (crew, _) = serving(&format!("sleep 1000 & echo $! > {}/$$; {OPENED}\nwait", folder.display()));
    let line = taken(&crew);
    wait_until(|| std::fs::read_dir(&folder).unwrap().count() >= 2); // the spare's, too
    thread::sleep(Duration::from_millis(20));
    let notes = std::fs::read_dir(&folder).unwrap().map(|it| std::fs::read_to_string(it.unwrap().path()).unwrap());
    let grandchildren: Vec<u32> = notes.map(|it| it.trim().parse().unwrap()).collect();
    assert!(grandchildren.iter().all(|it| !ended(*it)));
    drop(line);
    drop(crew);
    let is_gone = |it: &u32| std::fs::read_to_string(format!("/proc/{it}/stat")).map_or(true, |it| it.contains(") Z"));
    wait_until(|| grandchildren.iter().all(is_gone));
}

/// Whatever a worker sends or doesn't, its crew is dropped at once and every process ends.
#[test]
fn a_crew_goes_at_once_whatever_its_workers_do() {
    for script in [
        r"printf '\350\003\000\000' >&0; exec sleep 1000", // the length of a message, and nothing else
        "exec sleep 1000",                                 // never a word
        "while :; do echo and so on without end >&2; done", // words without an end
        r"printf '\377\377\377\377garbage' >&0; exec sleep 1000", // no message
        "exec 0<&- 0>&-; exec sleep 1000",                 // deaf
    ] {
        let (crew, _) = serving(script);
        crew.prepare();
        // One that sends garbage may be over before anybody looks.
        let begin = Instant::now();
        let mut pids = Vec::new();
        while begin.elapsed() < Duration::from_millis(100) {
            pids.extend(crew.pids());
            thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        match crew.take(Duration::from_millis(20)) {
            Ok(line) => assert!(line.is_none(), "{script}"),
            Err(refused) => {
                assert!(refused.reason.contains("because its library wrote into the socket"), "{refused:?}");
            }
        }
        drop(crew);
        assert!(start.elapsed() < Duration::from_secs(2), "{script}: {:?}", start.elapsed());
        wait_until(|| pids.iter().all(|it| ended(*it)));
    }
}

#[test]
fn bytes_that_nobody_asked_for_end_a_worker_and_say_so() {
    for stray in [r"\377\377\000\000", r"\000", r"\005\000\000\000\000\000\000\000\000"] {
        let (crew, _) = serving(&format!("{OPENED}; sleep 0.1; printf '{stray}' >&0; exec sleep 1000"));
        let line = taken(&crew);
        let exit = line.worker.wait(LONG).expect("it was ended");
        assert_eq!(exit.signal, Some(libc::SIGKILL));
        assert!(exit.to_string().contains("because its library wrote into the socket"), "{exit}");
    }
}

/// A worker that doesn't read now gets thousands of segments later, in order, and its host waits for nothing meanwhile.
#[test]
fn a_host_never_waits_while_it_shows_memory() {
    let file = std::fs::File::open("/dev/zero").unwrap();
    let file: Arc<OwnedFd> = Arc::new(file.into());
    let (crew, _) = serving(&format!("{OPENED}\nexec sleep 1000"));
    let line = taken(&crew);
    let start = Instant::now();
    for segment in 0..5_000 {
        line.worker.tell(&ToWorker::Map { segment, size: 4096 }, Some(Arc::clone(&file)));
    }
    assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
    assert!(line.worker.has_mail().0, "more than a socket holds");
}

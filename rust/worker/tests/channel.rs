//! What host and worker say to each other: bells that nobody misses, messages that arrive whole or not at all.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nif_loader::table::{Function, Table};
use nif_memory::SharedMap;
use nif_worker::channel::{Channel, Doorbell, Patience};
use nif_worker::devices::Told;
use nif_worker::message::{self, FromWorker, Inbox, Source, ToWorker};

mod random;
use random::Random;

/// Longer than any wait here takes, unless a wake-up was lost.
const LONG: Duration = Duration::from_secs(20);

fn silent() -> Doorbell {
    // SAFETY: atomics, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Wait for a number without a look before the sleep: each wait depends on its wake-up.
fn wait_for(bell: &Doorbell, number: u32) {
    let start = Instant::now();
    loop {
        let seen = bell.look();
        if seen == number {
            return;
        }
        assert!(start.elapsed() < LONG, "no {number} came, only {seen}");
        bell.sleep(seen, Some(LONG));
    }
}

/// Ring each number from 1 on and wait for its answer.
fn ask(to: &Doorbell, from: &Doorbell, rounds: u32) {
    for number in 1..=rounds {
        to.ring(number);
        wait_for(from, number);
    }
}

fn answer(from: &Doorbell, to: &Doorbell, rounds: u32) {
    for number in 1..=rounds {
        wait_for(from, number);
        to.ring(number);
    }
}

#[test]
fn no_ring_is_missed_between_threads() {
    let (there, back) = (silent(), silent());
    thread::scope(|scope| {
        scope.spawn(|| answer(&there, &back, 20_000));
        ask(&there, &back, 20_000);
    });
}

#[test]
fn no_ring_is_missed_between_processes() {
    // Not a `SharedMap`, which is a private copy in a child of fork.
    // SAFETY: a new mapping, which stays until the process ends.
    let map = unsafe {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), size_of::<Channel>(), access, flags, -1, 0)
    };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: of that size, zeroed, and kept until the end of the test.
    let channel: &Channel = unsafe { &*map.cast() };
    // SAFETY: the child only makes system calls on shared memory, and leaves at once.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        answer(&channel.request_bell, &channel.reply_bell, 5_000);
        // SAFETY: a plain call.
        unsafe { libc::_exit(0) };
    }
    ask(&channel.request_bell, &channel.reply_bell, 5_000);
    let mut status = 0;
    // SAFETY: our own child, reaped once.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
}

#[test]
fn whoever_waits_for_nothing_is_woken() {
    let bell = silent();
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let start = Instant::now();
            bell.sleep(0, Some(LONG));
            start.elapsed()
        });
        thread::sleep(Duration::from_millis(20));
        bell.silence();
        assert!(waits.join().unwrap() < LONG / 2);
    });
    assert_ne!(bell.look(), 0);
    assert_eq!(bell.look() & 1, 0, "a bell that fell silent isn't one that rang");
}

#[test]
fn a_sleep_ends_at_its_limit_and_not_before_a_ring() {
    let bell = silent();
    bell.ring(7);
    let start = Instant::now();
    bell.sleep(6, Some(LONG));
    assert!(start.elapsed() < LONG / 2, "it had rung before");
    let start = Instant::now();
    bell.sleep(7, Some(Duration::from_millis(10)));
    assert!(start.elapsed() < LONG / 2, "nobody rang");
}

#[test]
fn looks_in_vain_become_rare() {
    let (bell, limit) = (silent(), Duration::from_millis(2));
    let mut patience = Patience::new(limit);
    let mut long = 0;
    for _ in 0..500 {
        let start = Instant::now();
        assert!(!patience.look(&bell, 0));
        long += u32::from(start.elapsed() >= limit);
    }
    // After each twice as many waits without one: 1, 3, 7, 15, 31, 63, 127, 255.
    let several = thread::available_parallelism().is_ok_and(|it| it.get() > 1);
    assert!(long <= 8 + 20, "{long} looks of 500 took their time");
    assert!(long >= if several { 8 } else { 0 }, "{long} looks of 500 took their time");
    bell.ring(1);
    assert!(patience.look(&bell, 0), "what is there already is seen without a look");
}

#[test]
fn an_answer_during_the_look_is_seen() {
    let bell = silent();
    let mut patience = Patience::new(LONG);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(5));
            bell.ring(1);
        });
        let start = Instant::now();
        let seen = patience.look(&bell, 0);
        assert!(start.elapsed() < LONG / 2);
        assert!(seen || thread::available_parallelism().is_ok_and(|it| it.get() == 1));
    });
}

/// Send a message through a socket, while somebody reads it: the answer as text, and whether a descriptor came along.
fn through<T>(sent: &(impl serde::Serialize + Sync), descriptor: Option<&SharedMap>) -> (String, bool)
where
    T: serde::de::DeserializeOwned + std::fmt::Debug,
{
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(|| message::send(&ours, sent, descriptor.map(|it| it.file().as_fd())).unwrap());
        let (got, file) = message::receive::<T>(&theirs).unwrap();
        // The scope joins it too, but in std's own code, where ThreadSanitizer can't see it.
        sender.join().unwrap();
        let inode = |file: OwnedFd| File::from(file).metadata().unwrap().ino();
        let ours = descriptor.map(|it| inode(it.file().as_fd().try_clone_to_owned().unwrap()));
        let is_there = file.is_some();
        assert_eq!(file.map(inode), ours);
        (format!("{got:?}"), is_there)
    })
}

#[test]
fn messages_make_the_round_trip() {
    let random = &mut Random::new("messages_make_the_round_trip");
    let map = SharedMap::new(c"nif_lab test", 4096).unwrap();
    for _ in 0..30 {
        let (segment, size) = (random.next(), random.next());
        let [library, bindir, image, code] = std::array::from_fn(|_| random.text(2_000));
        let julia = Source::Julia { library, bindir, image, code };
        let all = [
            ToWorker::Channel { steady: random.below(2) == 0 },
            ToWorker::Open { source: julia, first: random.word() },
            ToWorker::Open { source: Source::File(random.text(300)), first: random.word() },
            ToWorker::Map { segment, size },
            ToWorker::Unmap { segment },
            ToWorker::OnDevice(Told::Module { number: segment, device: 1, image: random.text(3_000).into_bytes() }),
            ToWorker::Serve,
        ];
        for sent in all {
            assert_eq!(through::<ToWorker>(&sent, None), (format!("{sent:?}"), false));
            assert_eq!(through::<ToWorker>(&sent, Some(&map)), (format!("{sent:?}"), true));
        }
        let functions = (0..random.below(10)).map(|_| Function {
            name: random.text(30),
            signature: random.text(100),
            doc: random.text(20_000),
            flags: random.word(),
        });
        let functions = functions.collect();
        let table = Table { language: random.text(9), compiler: random.text(9), version: random.text(9), functions };
        for sent in [FromWorker::Opened(table), FromWorker::Refused(random.text(999), random.text(999))] {
            assert_eq!(through::<FromWorker>(&sent, None), (format!("{sent:?}"), false));
        }
    }
}

/// What a reader makes of bytes that a broken other side wrote before it ended.
fn read(bytes: &[u8]) -> std::io::Result<FromWorker> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(bytes).unwrap();
    drop(ours);
    message::receive(&theirs).map(|(it, _)| it)
}

#[test]
fn what_is_no_message_is_an_error() {
    let eof = |bytes: &[u8]| read(bytes).unwrap_err().kind() == ErrorKind::UnexpectedEof;
    assert!(eof(&[]) && eof(&[9]) && eof(&[9, 0, 0, 0]) && eof(&[9, 0, 0, 0, 1, 2, 3]));
    for bytes in [[0xff; 8], [1, 0, 0, 0, 77, 0, 0, 0], [0; 8]] {
        assert_eq!(read(&bytes).unwrap_err().kind(), ErrorKind::InvalidData);
    }
    let random = &mut Random::new("what_is_no_message_is_an_error");
    for _ in 0..3_000 {
        let length = random.below(200);
        let mut bytes = u32::try_from(length).unwrap().to_le_bytes().to_vec();
        bytes.push(u8::from(random.below(3) == 0)); // mostly one of the variants that there are
        bytes.extend((0..length).map(|_| random.next().to_le_bytes()[0]));
        // Some of it happens to be a message: then it is read as one.
        if let Ok(FromWorker::Opened(table)) = read(&bytes) {
            assert!(table.functions.len() <= length);
        }
    }
}

/// In pieces of any size the same messages come as in one read, and the same error.
#[test]
fn pieces_make_the_same_messages() {
    let random = &mut Random::new("pieces_make_the_same_messages");
    for round in 0..300 {
        let sent: Vec<FromWorker> =
            (0..random.below(5)).map(|_| FromWorker::Refused(random.text(300), random.text(10))).collect();
        let mut bytes: Vec<u8> = sent.iter().flat_map(|it| message::bytes_of(it).unwrap()).collect();
        let whole = bytes.len();
        let tail = [&[][..], &[0xff; 4], &[3, 0, 0], &[1, 0, 0, 0, 77], &[200, 0, 0, 0, 1]][round % 5];
        bytes.extend(tail);
        let mut inbox = Inbox::default();
        let (mut got, mut is_broken, mut rest) = (Vec::new(), false, &bytes[..]);
        while !rest.is_empty() && !is_broken {
            let (piece, after) = rest.split_at((1 + random.below(100)).min(rest.len()));
            rest = after;
            inbox.put(piece);
            loop {
                match inbox.take::<FromWorker>() {
                    Ok(Some(message)) => got.push(message),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::InvalidData);
                        is_broken = true;
                        break;
                    }
                }
            }
        }
        assert_eq!(format!("{got:?}"), format!("{sent:?}"));
        assert_eq!(is_broken, matches!(round % 5, 1 | 3));
        assert_eq!(inbox.is_empty(), bytes.len() == whole);
    }
}

#[test]
fn a_channel_begins_without_a_call() {
    let map = SharedMap::new(c"nif_lab test", size_of::<Channel>()).unwrap();
    // SAFETY: of that size, zeroed, and kept until the end of the test.
    let channel: &Channel = unsafe { map.address().cast().as_ref() };
    assert_eq!((channel.request_bell.look(), channel.reply_bell.look()), (0, 0));
    assert_eq!(channel.cancel.load(Ordering::Relaxed), 0);
    assert_eq!(channel.last_words.signal.load(Ordering::Relaxed), 0);
}

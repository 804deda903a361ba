//! The examples of docs/wire.md, their prefixes and everything one byte away from them; limits; the tables' shapes.

use nif::Matrix;

use super::decoder::decode;
use super::encoder::Encoder;
use super::error::WireError;
use super::schema::{COLUMNS, LINE, LIVE, Node, Row, cell};

/// The handles of the examples, and slot 9, which is free.
const HANDLES: [i64; 12] = [7, 3, 4096, 1, 8, 1, 65536, 0, 9, 0, 4096, 0];
const ALIGNMENT: i64 = 8;

struct Example {
    dialects: Vec<i64>,
    version: i64,
    frame: Vec<u8>,
}

/// The frames that the page shows.
fn examples() -> Vec<Example> {
    let page = include_str!("../../../../docs/wire.md").split_once("<!-- examples -->").expect("examples").1;
    let mut examples: Vec<Example> = vec![];
    for line in page.lines() {
        let words: Vec<&str> = line.split([' ', ',', '(', ')']).filter(|word| !word.is_empty()).collect();
        match words[..] {
            ["version", version, ref names @ .., _, "bytes"] => {
                let code = |name: &&str| ["rust", "zig", "nim", "julia"].iter().position(|it| it == name);
                let mut dialects: Vec<_> = names.iter().filter_map(code).map(cell).collect();
                if dialects.is_empty() {
                    dialects = (0..4).collect();
                }
                examples.push(Example { dialects, version: version.parse().unwrap(), frame: vec![] });
            }
            [offset, ref bytes @ ..] if line.starts_with(' ') && offset.parse::<usize>().is_ok() => {
                let bytes = bytes.iter().map(|byte| u8::from_str_radix(byte, 16).unwrap());
                examples.last_mut().unwrap().frame.extend(bytes);
            }
            _ => {}
        }
    }
    assert!(examples.len() > 60, "{} examples", examples.len());
    examples
}

fn read(frame: &[u8], dialect: i64, version: i64) -> Result<Vec<Node>, WireError> {
    decode(frame, dialect, version, Matrix::new(&HANDLES, 3, LIVE))
}

fn write(nodes: &[Node], data: &[u8], dialect: i64, version: i64, checksum: bool) -> Result<Vec<u8>, WireError> {
    let cells: Vec<i64> = nodes.iter().flat_map(|node| Row::from(*node)).collect();
    let encoder = Encoder::new(Matrix::new(&cells, nodes.len(), COLUMNS), data, dialect, version, ALIGNMENT)?;
    // Whatever isn't written shows.
    let mut bytes = vec![0xa5; encoder.length()];
    encoder.write(&mut bytes, checksum);
    Ok(bytes)
}

/// What is written of a table: the frame, behind zeros that align its payload.
fn write_frame(nodes: &[Node], data: &[u8], dialect: i64, version: i64, checksum: bool) -> Vec<u8> {
    let bytes = write(nodes, data, dialect, version, checksum).unwrap();
    let lead = bytes.iter().position(|byte| *byte != 0).unwrap();
    assert!(lead < LINE);
    bytes[lead..].to_vec()
}

fn refusal<T>(outcome: Result<T, WireError>) -> String {
    outcome.err().map(|error| error.to_string()).unwrap_or_default()
}

#[track_caller]
fn assert_refused<T>(outcome: Result<T, WireError>, code: &str, place: &str) {
    let text = refusal(outcome);
    assert!(text.starts_with(&format!("{code}: ")) && text.ends_with(place), "{text}; expected {code} {place}");
}

/// A frame of version 1 in the rust dialect: a `kernel_descriptor` with these children after grid and block.
fn kernel(children: &[(&[u8], &[u8])]) -> Vec<u8> {
    let launch: Vec<u8> = [&[1, 0x12, 3, 0, 0, 0], &[0; 12][..]].concat();
    let children = [&[(&b"grid"[..], &launch[..]), (b"block", &launch)], children].concat();
    let short = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
    let mut body = [short(children.len()), short(0)].concat();
    for (name, _) in &children {
        body.extend(short(name.len()));
        body.extend(*name);
    }
    body.extend(children.iter().flat_map(|(_, frame)| *frame));
    [&[1, 0x42], &u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat()
}

const TRUE: &[u8] = &[1, 0x05, 1];

#[test]
fn examples_are_read_and_written_back() {
    for Example { dialects, version, frame } in examples() {
        for dialect in dialects {
            let nodes = read(&frame, dialect, version).unwrap();
            assert_eq!(read(&frame, dialect, 0), Ok(nodes.clone()));
            assert_eq!(write_frame(&nodes, &frame, dialect, version, true), frame);
        }
    }
}

#[test]
fn payloads_are_aligned() {
    for Example { dialects, version, frame } in examples() {
        let nodes = read(&frame, dialects[0], version).unwrap();
        let bytes = write(&nodes, &frame, dialects[0], version, true).unwrap();
        let data = read(&bytes[bytes.len() - frame.len()..], dialects[0], version).unwrap()[0].data.offset;
        let title = if (0x40..0x50).contains(&nodes[0].marker) { 4 } else { 0 };
        assert_eq!((bytes.len() - frame.len() + usize::try_from(data).unwrap() - title) % LINE, 0);
    }
}

#[test]
fn prefixes_are_refused_and_so_is_more() {
    for Example { dialects, version, frame } in examples() {
        for end in 0..frame.len() {
            let text = refusal(read(&frame[..end], dialects[0], version));
            assert!(text.starts_with("SHORT") || text.starts_with("LENGTH"), "{text}");
        }
        let longer = [&frame[..], &[0]].concat();
        assert_refused(read(&longer, dialects[0], version), "TRAILING", &format!("(byte {})", frame.len()));
    }
}

/// A frame has one form: what is accepted is what its table is written as.
#[test]
fn one_byte_away_is_refused_or_another_frame() {
    let mut accepted = 0;
    for Example { dialects, version, frame } in examples() {
        // Without a checksum, which would refuse everything.
        let (mut frame, dialect) = (frame, dialects[0]);
        if version == 2 {
            let nodes = read(&frame, dialect, version).unwrap();
            frame = write_frame(&nodes, &frame, dialect, version, false);
        }
        for at in 0..frame.len() {
            let whole = frame[at];
            for byte in [0, 1, 2, 3, 4, 0x20, 0x40, 0x42, 0x7f, 0x80, 0xff, whole ^ 1, whole ^ 0x80] {
                frame[at] = byte;
                let Ok(nodes) = read(&frame, dialect, version) else { continue };
                accepted += 1;
                // The table doesn't have a frame's alignment, which is the zig dialect's.
                if (version, dialect) != (1, 1) {
                    assert_eq!(write_frame(&nodes, &frame, dialect, version, false), frame);
                }
            }
            frame[at] = whole;
        }
    }
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn arguments_are_checked_first() {
    let nodes = read(TRUE, 0, 1).unwrap();
    for (dialect, version, alignment, rows, code) in [
        (9, 0, 3, 0, "VERSION"),
        (9, 3, 3, 0, "VERSION"),
        (-1, 1, 3, 0, "VALUE"),
        (4, 2, 3, 0, "VALUE"),
        (0, 2, 0, 0, "ALIGN"),
        (0, 2, -8, 0, "ALIGN"),
        (0, 2, 128, 0, "ALIGN"),
        (0, 2, 264, 0, "ALIGN"),
        (0, 2, 64, 0, "SHORT"),
        (0, 2, 64, 513, "LIMIT"),
    ] {
        let cells = vec![0; rows * COLUMNS];
        let outcome = Encoder::new(Matrix::new(&cells, rows, COLUMNS), &[], dialect, version, alignment);
        assert!(refusal(outcome).split_once(':').is_some_and(|(it, words)| it == code && !words.contains('(')));
    }
    assert_refused(read(&[], 9, 3), "VERSION", "version");
    assert_refused(read(&[], 4, 0), "VALUE", "here");
    assert_refused(read(&[], 0, 0), "SHORT", "(byte 0)");
    assert_refused(read(&[0], 0, 0), "SHORT", "(byte 1)");
    assert_refused(read(&[0x89], 0, 0), "SHORT", "(byte 1)");
    assert_refused(read(&[0, 1], 0, 0), "VERSION", "(byte 0)");
    assert_refused(write(&[nodes[0], nodes[0]], TRUE, 0, 1, false), "TRAILING", "(node 1)");
}

#[test]
fn errors_have_the_words_of_the_page() {
    let page = include_str!("../../../../docs/wire.md");
    let text = refusal(read(&[1, 5, 2], 0, 1));
    assert_eq!(text, "VALUE: a value that is not allowed here (byte 2)");
    for (code, at) in [(&[1][..], 0), (&[1, 0x99], 0), (&[2, 1], 0), (&[1, 5, 1, 1], 0), (&[1, 0x10, 0, 0, 0, 128], 0)]
    {
        let text = refusal(read(code, at, 1));
        let (code, words) = text.split_once(": ").unwrap();
        let words = words.split(" (").next().unwrap();
        assert!(page.contains(&format!("| {code} | {words} |")), "{text}");
    }
}

#[test]
fn sizes_that_wrap_are_refused() {
    let header = |shape: [u64; 3], length: u64| -> Vec<u8> {
        let numbers = [shape[0], shape[1], shape[2], 0, length, 0];
        [&b"\x89NIF\x02\x23\x02\x03"[..], &[0; 8], numbers.map(u64::to_le_bytes).as_flattened()].concat()
    };
    let most = 1 << 40;
    assert_refused(read(&header([most + 1, 0, 0], 0), 0, 2), "DIM", "(byte 16)");
    assert_refused(read(&header([0, 0, u64::MAX], 0), 0, 2), "DIM", "(byte 32)");
    assert_refused(read(&header([most, most, 0], 0), 0, 2), "OVERFLOW", "(byte 16)");
    assert_refused(read(&header([most, 1 << 20, 1], 1 << 63), 0, 2), "OVERFLOW", "(byte 16)");
    assert_refused(read(&header([1, 1, 1], u64::MAX), 0, 2), "OVERFLOW", "(byte 48)");
    assert_refused(read(&header([1, 1, 1], 16), 0, 2), "LENGTH", "(byte 48)");
    assert_refused(read(&header([most, 1, 1], most * 8), 0, 2), "LENGTH", "(byte 48)");
    assert_eq!(read(&header([most, 0, 3], 0), 0, 2).unwrap()[0].shape, [1 << 40, 0, 3, 0]);
    let compact = |count: u32| [&[1, 0x10], &count.to_le_bytes()[..]].concat();
    assert_refused(read(&compact(1 << 31), 0, 1), "DIM", "(byte 2)");
    assert_refused(read(&compact((1 << 30) - 1), 0, 1), "OVERFLOW", "(byte 2)");
    assert_refused(read(&compact((1 << 30) - 2), 0, 1), "LENGTH", "(byte 2)");
    let mut node = read(&compact(0), 0, 1).unwrap()[0];
    for (offset, length) in [(-1, 0), (0, -1), (1, 0), (i64::MAX, i64::MAX), (0, 1)] {
        node.data.offset = offset;
        node.data.length = length;
        assert_refused(write(&[node], &[], 0, 1, false), "LENGTH", "(node 0)");
    }
}

#[test]
fn nesting_ends_at_64() {
    let deep = |depth: usize| (1..depth).fold(TRUE.to_vec(), |inner, _| kernel(&[(b"x", &inner)]));
    let nodes = read(&deep(64), 0, 1).unwrap();
    assert_eq!(write_frame(&nodes, &deep(64), 0, 1, false), deep(64));
    let frame = deep(65);
    // Before the last value come grid and block, as deep as it.
    assert_refused(read(&frame, 0, 1), "DEPTH", &format!("(byte {})", frame.len() - TRUE.len() - 2 * 18));
    // One more level around the table: the root again, as its own child.
    let mut deeper = vec![nodes[0]];
    deeper.extend(nodes[1..3].iter());
    deeper.extend(nodes.iter().map(|node| Node { parent: node.parent + 3, ..*node }));
    deeper[3] = Node { name: nodes[3].name, parent: 0, ..nodes[0] };
    assert_refused(write(&deeper, &deep(64), 0, 1, false), "DEPTH", "(node 190)");
}

#[test]
fn values_end_at_512() {
    let names: Vec<String> = (0..510).map(|index| index.to_string()).collect();
    let children: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), TRUE)).collect();
    let frame = kernel(&children[..509]);
    let nodes = read(&frame, 0, 1).unwrap();
    assert_eq!((nodes.len(), write_frame(&nodes, &frame, 0, 1, false)), (512, frame));
    assert_refused(read(&kernel(&children), 0, 1), "LIMIT", "(byte 6)");
    // The root, 259 children, of which one has 253.
    let inner = kernel(&children[..251]);
    let outer: Vec<(&[u8], &[u8])> = children[..256].iter().copied().chain([(&b"inner"[..], &inner[..])]).collect();
    assert_refused(read(&kernel(&outer), 0, 1), "LIMIT", ")");
    assert_eq!(read(&kernel(&outer[1..]), 0, 1).unwrap().len(), 512);
}

#[test]
fn names_are_told_apart() {
    let long = [b'n'; 256];
    for (name, code) in [
        (&b""[..], "LIMIT"),
        (&long, "LIMIT"),
        (&long[..255], ""),
        (b"\xc2\xb5", ""),
        (b"\xc0\x80", "UTF8"),
        (b"\xed\xa0\x80", "UTF8"),
        (b"\xf4\x90\x80\x80", "UTF8"),
        (b"a\0", "UTF8"),
        (b"x", "DUPLICATE"),
        (b"grid", "DUPLICATE"),
        (b"y", ""),
    ] {
        let frame = kernel(&[(b"x", TRUE), (b"xx", TRUE), (name, TRUE)]);
        let decoded = refusal(read(&frame, 0, 1));
        assert_eq!(decoded.split(':').next(), Some(code));
        // The same in a table, whose last name is another.
        let data = [&kernel(&[(b"x", TRUE), (b"xx", TRUE), (b"z", TRUE)]), name].concat();
        let mut nodes = read(&data[..data.len() - name.len()], 0, 1).unwrap();
        let place = data.len() - name.len()..data.len();
        nodes[5].name = (&place).into();
        let encoded = refusal(write(&nodes, &data, 0, 1, false));
        assert_eq!(encoded.split(':').next(), Some(code));
        assert!(code.is_empty() || encoded.ends_with("(node 5)"), "{encoded}");
    }
}

#[test]
fn groups_are_numbered() {
    let shape = [1, 0x13, 0, 0, 0, 0];
    let dtype = [1, 0x03, 14, 0, 0, 0];
    let operation = |names: &[&str]| {
        let mut body = [u16::try_from(names.len()).unwrap(), 0].map(u16::to_le_bytes).as_flattened().to_vec();
        for name in names {
            body.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            body.extend(name.bytes());
        }
        body.extend(names.iter().enumerate().flat_map(|(index, _)| if index % 2 == 0 { shape } else { dtype }));
        [&[1, 0x41], &u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat()
    };
    let names: Vec<String> = (0..200).map(|index| format!("{}.{}", index / 2, ["shape", "dtype"][index % 2])).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(read(&operation(&names), 0, 1).unwrap().len(), 201);
    for wrong in ["00.dtype", "+0.dtype", "0dtype", ".dtype", "dtype", "1.dtype", "0.dtyp", "0.dtype ", "0.shapf"] {
        assert_refused(read(&operation(&["0.shape", wrong]), 0, 1), "VALUE", "(byte 21)");
    }
    assert_refused(read(&operation(&["0.shape", "0.shape"]), 0, 1), "DUPLICATE", "(byte 21)");
    assert_refused(read(&operation(&["0.shape"]), 0, 1), "VALUE", "(byte 6)");
}

#[test]
fn handles_must_be_live() {
    let buffer = |handle: u64, size: u64, device: u32| {
        [&[1, 0x30], &handle.to_le_bytes()[..], &size.to_le_bytes(), &device.to_le_bytes()].concat()
    };
    assert!(read(&buffer(3 << 32 | 7, 4096, 1), 0, 1).is_ok());
    for (handle, size, device, code) in [
        (3 << 32 | 6, 1, 1, "HANDLE"),
        (2 << 32 | 7, 1, 1, "STALE"),
        (7, 1, 1, "STALE"),
        (9, 1, 0, "STALE"),
        (3 << 32 | 7, 4097, 1, "HANDLE"),
        (3 << 32 | 7, u64::MAX, 1, "HANDLE"),
        (3 << 32 | 7, 1, 0, "HANDLE"),
    ] {
        assert_refused(read(&buffer(handle, size, device), 0, 1), code, "(byte 2)");
    }
    let texture = |sizes: [u32; 3], dtype: u32| {
        let numbers = [8, 1, sizes[0], sizes[1], sizes[2], dtype, 0].map(u32::to_le_bytes);
        [&[1, 0x31], numbers.as_flattened()].concat()
    };
    assert!(read(&texture([64, 64, 4], 1), 0, 1).is_ok());
    assert_refused(read(&texture([u32::MAX; 3], 14), 0, 1), "HANDLE", "(byte 2)");
    for dtype in [0, 15, 257, u32::MAX] {
        assert_refused(read(&texture([1; 3], dtype), 0, 1), "VALUE", "(byte 22)");
    }
}

#[test]
fn tables_may_have_any_strides() {
    let frame = kernel(&[(b"x", TRUE)]);
    let nodes = read(&frame, 0, 1).unwrap();
    let rows: Vec<Row> = nodes.iter().map(|node| Row::from(*node)).collect();
    let columns: Vec<i64> = (0..COLUMNS).flat_map(|column| rows.iter().map(move |row| row[column])).collect();
    let table = Matrix::new(&columns, COLUMNS, rows.len()).transposed();
    let encoder = Encoder::new(table, &frame, 0, 1, ALIGNMENT).unwrap();
    let mut bytes = vec![0; encoder.length()];
    encoder.write(&mut bytes, false);
    assert!(bytes.ends_with(&frame));
}

#[test]
fn rows_are_in_order() {
    let frame = kernel(&[(b"x", TRUE), (b"y", &kernel(&[]))]);
    let nodes = read(&frame, 0, 1).unwrap();
    let refused = |change: &dyn Fn(&mut [Node]), code: &str, row: usize| {
        let mut nodes = nodes.clone();
        change(&mut nodes);
        assert_refused(write(&nodes, &frame, 0, 1, false), code, &format!("(node {row})"));
    };
    refused(&|nodes| nodes[0].parent = 0, "VALUE", 0);
    refused(&|nodes| nodes[0].count = 3, "LENGTH", 0);
    refused(&|nodes| nodes[0].name.length = 1, "VALUE", 0);
    refused(&|nodes| nodes[3].count = 1, "VALUE", 3);
    refused(&|nodes| nodes[3].parent = 3, "LENGTH", 0);
    refused(&|nodes| nodes[5].parent = 0, "LENGTH", 0);
    refused(&|nodes| nodes.swap(3, 5), "VALUE", 4);
    refused(&|nodes| nodes[4].parent = i64::MIN, "LENGTH", 0);
    refused(&|nodes| nodes[1].shape[0] = 4, "LENGTH", 1);
    refused(&|nodes| nodes[1].marker = 0x13, "MARKER", 1);
    refused(&|nodes| nodes[3].marker = 0x05 + 256, "MARKER", 3);
}

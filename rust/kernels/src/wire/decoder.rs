//! A frame to its node table. docs/wire.md numbers the checks; the order here is the order there.
//!
//! The frame may lie in memory that another process writes: whatever decides is read once, into a copy.

use std::hint::black_box;
use std::ops::Range;

use nif::Matrix;
use nif_copy::checksum;

use super::error::{Code, WireError};
use super::rules::{alignment, array_length, first_outside, half, is_text, word};
use super::schema::{
    BOOL, DEPTH, Dialect, Format, Kind, LINE, MAGIC, Marker, NAME, NODES, Node, Record, Role, Span, cell, item,
};

type Result<T> = std::result::Result<T, WireError>;

/// The node table of a frame. `live` has `LIVE` columns.
pub fn decode(frame: &[u8], dialect: i64, version: i64, live: Matrix<'_, i64>) -> Result<Vec<Node>> {
    if !(0..=2).contains(&version) {
        return Err(Code::Version.anywhere());
    }
    let dialect = Dialect::by_code(dialect).ok_or(Code::Value.anywhere())?;
    let version = if version == 0 { own_version(frame)? } else { version };
    let format = Format::new(version, dialect);
    let mut decoder = Decoder { frame, live, format, nodes: vec![], announced: 1, names: vec![], texts: vec![] };
    decoder.frame(0, frame.len(), Parent { depth: 0, row: -1, name: Span::default(), role: None })?;
    Ok(decoder.nodes)
}

fn own_version(frame: &[u8]) -> Result<i64> {
    match *frame {
        [] => Err(Code::Short.at(0)),
        [1, ..] => Ok(1),
        [first, ..] if first == MAGIC[0] => Ok(2),
        [_] => Err(Code::Short.at(1)),
        _ => Err(Code::Version.at(0)),
    }
}

/// What a frame's record knows of it.
#[derive(Clone, Copy)]
struct Parent {
    depth: usize,
    row: i64,
    name: Span,
    role: Option<Role>,
}

/// A frame's header, checked.
struct Header {
    marker: &'static Marker,
    dtype: u8,
    ndim: u8,
    order: i64,
    shape: [i64; 4],
    /// Where the payload begins, its length, and that of the padding after it.
    body: usize,
    length: u64,
    padding: u8,
    /// Where the header says how long the payload is.
    claim: usize,
    /// The header itself, in version 2.
    line: [u8; LINE],
}

impl Header {
    /// Check 14.
    fn check_sum(&self, payload: &[u8]) -> Result<()> {
        let (place, sum) = (self.body - 8, word(&self.line, 56));
        if self.line[9] == 0 {
            return if sum == 0 { Ok(()) } else { Err(Code::Value.at(place)) };
        }
        let expected = checksum(payload) ^ checksum(&self.line[..56]);
        if sum == expected { Ok(()) } else { Err(Code::Checksum.at(place)) }
    }
}

/// The name of a child: where it is, where its copy is, and a hash of it.
struct Name {
    place: Range<usize>,
    copied: usize,
    hash: u64,
}

struct Decoder<'a> {
    frame: &'a [u8],
    live: Matrix<'a, i64>,
    format: Format,
    nodes: Vec<Node>,
    /// The root and the children of all records so far.
    announced: usize,
    /// The names of those children.
    names: Vec<Name>,
    /// Copies of the names of the record whose names are read.
    texts: Vec<u8>,
}

impl Decoder<'_> {
    /// Decodes one frame, and returns where it ends.
    fn frame(&mut self, start: usize, end: usize, parent: Parent) -> Result<usize> {
        let depth = parent.depth + 1;
        if depth > DEPTH {
            return Err(Code::Depth.at(start));
        }
        let head = match self.format {
            Format::One(dialect) => self.header_1(start, end, parent, dialect)?,
            Format::Two => self.header_2(start, end, parent)?,
        };
        let body = head.body;
        let whole = usize::try_from(head.length + u64::from(head.padding)).ok().filter(|whole| *whole <= end - body);
        let after = body + whole.ok_or_else(|| Code::Length.at(head.claim))?;
        if depth == 1 && after < end {
            return Err(Code::Trailing.at(after));
        }
        if matches!(self.format, Format::Two) {
            head.check_sum(&self.frame[body..after])?;
        }
        let row = self.nodes.len();
        self.nodes.push(Node {
            marker: head.marker.code.into(),
            dtype: head.dtype.into(),
            ndim: head.ndim.into(),
            shape: head.shape,
            order: head.order,
            data: Span { offset: cell(body), length: head.length.cast_signed() },
            name: parent.name,
            parent: parent.row,
            count: 0,
        });
        match head.marker.kind {
            Kind::Record(record) => self.record(row, record, body, after, depth)?,
            Kind::Buffer => self.buffer(body)?,
            Kind::Texture => self.texture(body)?,
            Kind::Scalar | Kind::Array => self.elements(&head, after)?,
        }
        Ok(after)
    }

    /// Checks 2 to 10 in version 1.
    fn header_1(&self, start: usize, end: usize, parent: Parent, dialect: &Dialect) -> Result<Header> {
        let line: [u8; LINE] = self.copy(start, end);
        let need = |length: usize| if end - start < length { Err(too_short(end, parent)) } else { Ok(()) };
        need(2)?;
        if line[0] != 1 {
            return Err(Code::Version.at(start));
        }
        let marker = self.format.marker(line[1], parent.role).ok_or_else(|| Code::Marker.at(start + 1))?;
        let header = self.format.header_length(marker);
        need(header + marker.fixed_length().unwrap_or(0))?;
        let ndim = marker.ndims[0];
        let mut head = Header {
            marker,
            dtype: marker.dtypes[marker.dtypes.len() - 1],
            ndim,
            order: if ndim > 1 { dialect.order } else { 0 },
            shape: [0; 4],
            body: start + header,
            length: 0,
            padding: 0,
            claim: start + 2,
            line,
        };
        let number = |at: usize| word(&line, at) & (u64::MAX >> (64 - 8 * dialect.dimension));
        match marker.kind {
            Kind::Scalar | Kind::Buffer | Kind::Texture => head.length = marker.fixed_length().unwrap_or(0) as u64,
            Kind::Record(_) => head.length = number(2),
            Kind::Array => {
                let places = (2..).step_by(dialect.dimension);
                for (size, at) in head.shape[..ndim.into()].iter_mut().zip(places) {
                    *size = self.dimension(number(at)).ok_or_else(|| Code::Dim.at(start + at))?;
                }
                let stated = if dialect.aligned { line[header - 1] } else { 1 };
                let alignment = alignment(stated.into()).ok_or_else(|| Code::Align.at(head.body - 1))?;
                let length = array_length(head.dtype, &head.shape[..ndim.into()]);
                head.length = length.ok_or_else(|| Code::Overflow.at(head.claim))?;
                head.padding = self.format.padding(head.length, alignment);
            }
        }
        let whole = head.length.saturating_add(u64::from(head.padding) + header as u64);
        if self.format.has_room_for(whole) { Ok(head) } else { Err(Code::Overflow.at(head.claim)) }
    }

    /// Checks 2 to 11 in version 2.
    fn header_2(&self, start: usize, end: usize, parent: Parent) -> Result<Header> {
        if end - start < LINE {
            return Err(too_short(end, parent));
        }
        let line: [u8; LINE] = self.copy(start, end);
        if line[..4] != MAGIC {
            return Err(Code::Version.at(start));
        }
        let [version, code, dtype, ndim, order, flags] = [4, 5, 6, 7, 8, 9].map(|at| line[at]);
        if version != 2 {
            return Err(Code::Version.at(start + 4));
        }
        let marker = self.format.marker(code, parent.role).ok_or_else(|| Code::Marker.at(start + 5))?;
        let right = [
            (6, marker.dtypes.contains(&dtype)),
            (7, marker.ndims.contains(&ndim)),
            (8, order <= u8::from(ndim > 1)),
            (9, flags <= u8::from(parent.depth == 0)),
            (10, line[10..16] == [0; 6]),
        ];
        if let Some((at, _)) = right.into_iter().find(|(_, right)| !right) {
            return Err(Code::Value.at(start + at));
        }
        let mut shape = [0; 4];
        for (axis, size) in shape.iter_mut().enumerate() {
            let at = 16 + 8 * axis;
            let number = word(&line, at);
            if axis < ndim.into() {
                *size = self.dimension(number).ok_or_else(|| Code::Dim.at(start + at))?;
            } else if number > 0 {
                return Err(Code::Value.at(start + at));
            }
        }
        let expected = match marker.kind {
            Kind::Array => {
                let length = array_length(dtype, &shape[..ndim.into()]);
                Some(length.ok_or_else(|| Code::Overflow.at(start + 16))?)
            }
            _ => marker.fixed_length().map(|length| length as u64),
        };
        let (claim, length) = (start + 48, word(&line, 48));
        if !self.format.has_room_for(length.saturating_add(LINE as u64)) {
            return Err(Code::Overflow.at(claim));
        }
        if expected.is_some_and(|expected| expected != length) {
            return Err(Code::Length.at(claim));
        }
        let (order, body) = (order.into(), start + LINE);
        Ok(Header { marker, dtype, ndim, order, shape, body, length, padding: 0, claim, line })
    }

    fn dimension(&self, number: u64) -> Option<i64> {
        i64::try_from(number).ok().filter(|size| *size <= self.format.dimension_max())
    }

    /// Checks 15 and 16.
    fn elements(&self, head: &Header, after: usize) -> Result<()> {
        let payload_end = after - usize::from(head.padding);
        self.check_zeros(payload_end, after)?;
        if head.dtype != BOOL {
            return Ok(());
        }
        let wrong = first_outside(&self.frame[head.body..payload_end], 1);
        wrong.map_or(Ok(()), |index| Err(Code::Value.at(head.body + index)))
    }

    /// Checks 18 to 20.
    fn buffer(&self, body: usize) -> Result<()> {
        let fields: [u8; 20] = self.copy(body, self.frame.len());
        self.check_handle(body, word(&fields, 0), word(&fields, 8).into(), half(&fields, 16))
    }

    /// Checks 17 to 20.
    fn texture(&self, body: usize) -> Result<()> {
        let fields: [u8; 28] = self.copy(body, self.frame.len());
        let dtype = half(&fields, 20);
        let item = u8::try_from(dtype).ok().and_then(item).ok_or_else(|| Code::Value.at(body + 20))?;
        let [height, width, channels] = [8, 12, 16].map(|at| u128::from(half(&fields, at)));
        self.check_handle(body, word(&fields, 0), height * width * channels * u128::from(item), half(&fields, 24))
    }

    fn check_handle(&self, place: usize, handle: u64, used: u128, device: u32) -> Result<()> {
        let (generation, slot) = ((handle >> 32).cast_signed(), (handle & u64::from(u32::MAX)).cast_signed());
        let row = (0..self.live.rows()).find(|row| self.live[(*row, 0)] == slot);
        let row = row.ok_or_else(|| Code::Handle.at(place))?;
        if generation == 0 || generation != self.live[(row, 1)] {
            return Err(Code::Stale.at(place));
        }
        let fits = u128::try_from(self.live[(row, 2)]).is_ok_and(|size| used <= size);
        if fits && self.live[(row, 3)] == device.into() { Ok(()) } else { Err(Code::Handle.at(place)) }
    }

    /// Checks 21 to 37: what is in a record, whose payload goes from `start` to `end`.
    fn record(&mut self, row: usize, record: &Record, start: usize, end: usize, depth: usize) -> Result<()> {
        if end - start < 4 {
            return Err(Code::Length.at(end));
        }
        let [low, high, title @ ..] = self.copy::<4>(start, end);
        let count = usize::from(u16::from_le_bytes([low, high]));
        self.announced += count;
        if self.announced > NODES {
            return Err(Code::Limit.at(start));
        }
        if !record.accepts(count) {
            return Err(Code::Value.at(start));
        }
        let title = self.text(start + 2, title, end, 0)?;
        self.nodes[row].data = Span::from(&title);
        self.nodes[row].count = cell(count);
        let first = self.names.len();
        let names_end = self.child_names(record, count, title.end, end)?;
        let mut at = self.skip_gap(start, names_end, end)?;
        for index in 0..count {
            let (begin, child, role) = (at, self.nodes.len(), record.role(index));
            let name = Span::from(&self.names[first + index].place);
            at = self.frame(begin, end, Parent { depth, row: cell(row), name, role })?;
            let value = || i32::from_le_bytes(self.copy(at - 4, at));
            if role.is_some_and(|role| !role.admits(&self.nodes[child], value)) {
                return Err(Code::Value.at(begin));
            }
            at = self.skip_gap(begin, at, end)?;
        }
        if at == end { Ok(()) } else { Err(Code::Length.at(at)) }
    }

    /// Checks 27 to 32; returns where the names end.
    fn child_names(&mut self, record: &Record, count: usize, mut at: usize, end: usize) -> Result<usize> {
        let first = self.names.len();
        self.texts.clear();
        for index in 0..count {
            if end - at < 2 {
                return Err(Code::Length.at(end));
            }
            let copied = self.texts.len();
            let place = self.text(at, self.copy(at, end), end, 1)?;
            let name = &self.texts[copied..];
            let hash = checksum(name);
            let same = |it: &Name| {
                it.hash == hash && self.texts[it.copied..].starts_with(name) && it.place.len() == name.len()
            };
            if self.names[first..].iter().any(same) {
                return Err(Code::Duplicate.at(place.start));
            }
            if record.role(index).is_some_and(|role| !role.is_named(name)) {
                return Err(Code::Value.at(place.start));
            }
            at = place.end;
            self.names.push(Name { place, copied, hash });
        }
        Ok(at)
    }

    /// Where a title or name is whose length stands at `at`: checked, and copied to `texts`.
    fn text(&mut self, at: usize, length: [u8; 2], end: usize, least: usize) -> Result<Range<usize>> {
        let length = usize::from(u16::from_le_bytes(length));
        if !(least..=NAME).contains(&length) {
            return Err(Code::Limit.at(at));
        }
        let start = at + 2;
        if end - start < length {
            return Err(Code::Length.at(at));
        }
        let place = start..start + length;
        let copied = self.texts.len();
        self.texts.extend_from_slice(&self.frame[place.clone()]);
        if is_text(&self.texts[copied..]) { Ok(place) } else { Err(Code::Utf8.at(start)) }
    }

    /// Where the next part of a record begins, after the zeros behind the part from `start` to `at`.
    fn skip_gap(&self, start: usize, at: usize, end: usize) -> Result<usize> {
        let gap = self.format.gap(at - start);
        if end - at < gap {
            return Err(Code::Length.at(at));
        }
        self.check_zeros(at, at + gap)?;
        Ok(at + gap)
    }

    fn check_zeros(&self, start: usize, end: usize) -> Result<()> {
        first_outside(&self.frame[start..end], 0).map_or(Ok(()), |index| Err(Code::Pad.at(start + index)))
    }

    /// Up to `N` bytes of the frame as they are now, with zeros behind its end.
    fn copy<const N: usize>(&self, at: usize, end: usize) -> [u8; N] {
        let there = &self.frame[at..end];
        let mut copy = [0; N];
        match there.first_chunk() {
            Some(all) => copy = *all,
            None => copy[..there.len()].copy_from_slice(there),
        }
        // Or else the compiler, which takes the frame for constant, might read it again.
        black_box(copy)
    }
}

/// Why a header isn't there.
#[cold]
fn too_short(end: usize, parent: Parent) -> WireError {
    let code = if parent.depth == 0 { Code::Short } else { Code::Length };
    code.at(end)
}

//! A node table to its frame. docs/wire.md numbers the checks; the order here is the order there.
//!
//! First the whole table is checked and the frame measured, then it is written in one go.

use std::collections::HashSet;

use nif::Matrix;
use nif_copy::{Summed, checksum};

use super::error::{Code, WireError};
use super::rules::{alignment, array_length, first_outside, half, is_text};
use super::schema::{
    BOOL, COLUMNS, DEPTH, Dialect, Format, Kind, LINE, MAGIC, Marker, NAME, NODES, Node, Record, Role, Row, Span, cell,
    item,
};

type Result<T> = std::result::Result<T, WireError>;

/// A row of the table, the rows that name it as their parent, and what it becomes.
struct Item {
    node: Node,
    children: Vec<usize>,
    frame: Frame,
}

/// Of a row that was checked: its kind, and the bytes of header, payload and padding.
#[derive(Default)]
struct Frame {
    kind: Kind,
    header: usize,
    payload: usize,
    padding: u8,
}

impl Frame {
    fn length(&self) -> usize {
        self.header + self.payload + usize::from(self.padding)
    }
}

fn items(nodes: Matrix<'_, i64>) -> Vec<Item> {
    let (mut row, mut scratch): (Row, Row) = ([0; COLUMNS], [0; COLUMNS]);
    let node = |index| {
        row.copy_from_slice(nodes.row_in(index, &mut scratch));
        Item { node: Node::from(row), children: vec![], frame: Frame::default() }
    };
    let mut items: Vec<_> = (0..nodes.rows()).map(node).collect();
    for row in 0..items.len() {
        let parent = usize::try_from(items[row].node.parent).ok();
        if let Some(parent) = parent.and_then(|parent| items.get_mut(parent)) {
            parent.children.push(row);
        }
    }
    items
}

/// A frame that can be written.
pub struct Encoder<'a> {
    data: &'a [u8],
    format: Format,
    alignment: u8,
    items: Vec<Item>,
}

impl<'a> Encoder<'a> {
    /// Checks a node table. `nodes` has as many columns as a `Row`.
    pub fn new(nodes: Matrix<'_, i64>, data: &'a [u8], dialect: i64, version: i64, aligned: i64) -> Result<Self> {
        if !(1..=2).contains(&version) {
            return Err(Code::Version.anywhere());
        }
        let dialect = Dialect::by_code(dialect).ok_or(Code::Value.anywhere())?;
        let alignment = alignment(aligned).ok_or(Code::Align.anywhere())?;
        let rows = nodes.rows();
        if rows == 0 {
            return Err(Code::Short.anywhere());
        }
        if rows > NODES {
            return Err(Code::Limit.anywhere());
        }
        let mut it = Self { data, format: Format::new(version, dialect), alignment, items: items(nodes) };
        let after = it.check(0, 1, None)?;
        if after == rows { Ok(it) } else { Err(Code::Trailing.in_row(after)) }
    }

    /// Zero bytes before the frame, so that its payload is aligned.
    fn lead(&self) -> usize {
        self.items[0].frame.header.wrapping_neg() % LINE
    }

    /// Bytes that `write` fills.
    pub fn length(&self) -> usize {
        self.lead() + self.items[0].frame.length()
    }

    /// Writes the frame into memory with any contents. Its checksum is computed on the way.
    pub fn write(&self, bytes: &mut [u8], summed: bool) {
        let Item { node, frame, .. } = &self.items[0];
        let (lead, frame_bytes) = bytes.split_at_mut(self.lead());
        let (head, payload) = frame_bytes.split_at_mut(frame.header);
        lead.fill(0);
        head.copy_from_slice(&self.header(frame, node)[..frame.header]);
        let summed = summed && matches!(self.format, Format::Two);
        let mut out = Out(Summed::new(payload, summed));
        self.write_payload(0, &mut out);
        if summed {
            head[9] = 1;
            let sum = out.0.finish() ^ checksum(&head[..56]);
            head[56..].copy_from_slice(&sum.to_le_bytes());
        }
    }

    /// Checks a row and all below it, and returns the row after them.
    fn check(&mut self, row: usize, depth: usize, role: Option<Role>) -> Result<usize> {
        let wrong = |code: Code| move || code.in_row(row);
        if depth > DEPTH {
            return Err(Code::Depth.in_row(row));
        }
        let node = self.items[row].node;
        if row == 0 && node.parent != -1 {
            return Err(Code::Value.in_row(row));
        }
        let code = u8::try_from(node.marker).ok();
        let marker = code.and_then(|code| self.format.marker(code, role)).ok_or_else(wrong(Code::Marker))?;
        let (dtype, ndim) = self.element_type(&node, marker).ok_or_else(wrong(Code::Value))?;
        self.check_shape(row, &node, ndim)?;
        if (node.count != 0 && !matches!(marker.kind, Kind::Record(_))) || (row == 0 && node.name.length != 0) {
            return Err(Code::Value.in_row(row));
        }
        let header = self.format.header_length(marker);
        let (mut expected, mut padding) = (marker.fixed_length(), 0);
        if let Kind::Array = marker.kind {
            let length = array_length(dtype, &node.shape[..ndim]).ok_or_else(wrong(Code::Overflow))?;
            padding = self.format.padding(length, self.alignment);
            if !self.format.has_room_for(header as u64 + length + u64::from(padding)) {
                return Err(Code::Overflow.in_row(row));
            }
            expected = Some(usize::try_from(length).unwrap_or(usize::MAX));
        }
        let payload = node.data.of(self.data).ok_or_else(wrong(Code::Length))?;
        if expected.is_some_and(|expected| expected != payload.len()) {
            return Err(Code::Length.in_row(row));
        }
        let right = match marker.kind {
            Kind::Texture => u8::try_from(half(payload, 20)).ok().and_then(item).is_some(),
            _ => dtype != BOOL || first_outside(payload, 1).is_none(),
        };
        if !right {
            return Err(Code::Value.in_row(row));
        }
        self.items[row].frame = Frame { kind: marker.kind, header, payload: payload.len(), padding };
        match marker.kind {
            Kind::Record(record) => self.check_record(row, record, depth),
            _ => Ok(row + 1),
        }
    }

    /// Checks 7 and 8: the code of the element type and the number of axes, if they and the order are right.
    fn element_type(&self, node: &Node, marker: &Marker) -> Option<(u8, usize)> {
        let (dtypes, orders) = match self.format {
            Format::One(dialect) => (&marker.dtypes[marker.dtypes.len() - 1..], dialect.order..=dialect.order),
            Format::Two => (marker.dtypes, 0..=1),
        };
        let one_of = |codes: &[u8], code: i64| codes.iter().copied().find(|it| i64::from(*it) == code);
        let (dtype, ndim) = (one_of(dtypes, node.dtype)?, one_of(marker.ndims, node.ndim)?);
        let right = if ndim < 2 { node.order == 0 } else { orders.contains(&node.order) };
        right.then_some((dtype, ndim.into()))
    }

    /// Check 9.
    fn check_shape(&self, row: usize, node: &Node, ndim: usize) -> Result<()> {
        let (used, unused) = node.shape.split_at(ndim);
        if used.iter().any(|size| !(0..=self.format.dimension_max()).contains(size)) {
            return Err(Code::Dim.in_row(row));
        }
        if unused.iter().any(|size| *size != 0) { Err(Code::Value.in_row(row)) } else { Ok(()) }
    }

    /// Checks 14 to 19.
    fn check_record(&mut self, row: usize, record: &Record, depth: usize) -> Result<usize> {
        let node = self.items[row].node;
        let children = &self.items[row].children;
        let count = children.len();
        if node.count != cell(count) {
            return Err(Code::Length.in_row(row));
        }
        if !record.accepts(count) {
            return Err(Code::Value.in_row(row));
        }
        let mut length = 4 + self.text(row, node.data, 0)?.len();
        let mut names = HashSet::with_capacity(count);
        for (index, &child) in children.iter().enumerate() {
            let name = self.text(child, self.items[child].node.name, 1)?;
            if !names.insert(name) {
                return Err(Code::Duplicate.in_row(child));
            }
            if record.role(index).is_some_and(|role| !role.is_named(name)) {
                return Err(Code::Value.in_row(child));
            }
            length += 2 + name.len();
        }
        length += self.format.gap(length);
        let mut after = row + 1;
        for index in 0..count {
            let (child, role) = (self.items[row].children[index], record.role(index));
            if child != after {
                return Err(Code::Value.in_row(child));
            }
            after = self.check(child, depth + 1, role)?;
            let node = &self.items[child].node;
            let value = || node.data.of(self.data).map_or(-1, |value| half(value, 0).cast_signed());
            if role.is_some_and(|role| !role.admits(node, value)) {
                return Err(Code::Value.in_row(child));
            }
            let frame = self.items[child].frame.length();
            length = length.saturating_add(frame + self.format.gap(frame));
        }
        let whole = length.saturating_add(self.items[row].frame.header);
        if !self.format.has_room_for(whole as u64) {
            return Err(Code::Overflow.in_row(row));
        }
        self.items[row].frame.payload = length;
        Ok(after)
    }

    /// A title or name of the row.
    fn text(&self, row: usize, place: Span, least: i64) -> Result<&'a [u8]> {
        if !(least..=cell(NAME)).contains(&place.length) {
            return Err(Code::Limit.in_row(row));
        }
        let text = place.of(self.data).ok_or_else(|| Code::Length.in_row(row))?;
        if is_text(text) { Ok(text) } else { Err(Code::Utf8.in_row(row)) }
    }

    fn write_frame(&self, row: usize, out: &mut Out<'_>) {
        let Item { node, frame, .. } = &self.items[row];
        out.0.put(&self.header(frame, node)[..frame.header]);
        self.write_payload(row, out);
    }

    fn write_payload(&self, row: usize, out: &mut Out<'_>) {
        let Item { node, children, frame } = &self.items[row];
        let data = node.data.of(self.data).unwrap_or_default();
        if !matches!(frame.kind, Kind::Record(_)) {
            out.0.put(data);
            return out.0.zeros(frame.padding.into());
        }
        let start = out.0.filled();
        out.number(children.len());
        out.text(data);
        for child in children {
            out.text(self.items[*child].node.name.of(self.data).unwrap_or_default());
        }
        out.0.zeros(self.format.gap(out.0.filled() - start));
        for child in children {
            let start = out.0.filled();
            self.write_frame(*child, out);
            out.0.zeros(self.format.gap(out.0.filled() - start));
        }
    }

    /// A frame's header, with zeros behind.
    fn header(&self, frame: &Frame, node: &Node) -> [u8; LINE] {
        let mut line = [0; LINE];
        let mut set = |at: usize, number: &[u8]| line[at..at + number.len()].copy_from_slice(number);
        let length = (frame.payload as u64).to_le_bytes();
        let [marker, dtype, ndim, order] =
            [node.marker, node.dtype, node.ndim, node.order].map(|it| it.to_le_bytes()[0]);
        let shape = node.shape.map(i64::to_le_bytes);
        match self.format {
            Format::Two => {
                set(0, &MAGIC);
                set(4, &[2, marker, dtype, ndim, order]);
                set(16, shape.as_flattened());
                set(48, &length);
            }
            Format::One(dialect) => {
                set(0, &[1, marker]);
                let size = dialect.dimension;
                match frame.kind {
                    Kind::Record(_) => set(2, &length[..size]),
                    Kind::Array => {
                        let axes = ndim.into();
                        for (axis, number) in shape[..axes].iter().enumerate() {
                            set(2 + axis * size, &number[..size]);
                        }
                        set(2 + axes * size, &[self.alignment]);
                    }
                    _ => {}
                }
            }
        }
        line
    }
}

/// The payload being written.
struct Out<'a>(Summed<'a>);

impl Out<'_> {
    /// A number of 2 bytes; those of a record are that small.
    fn number(&mut self, number: usize) {
        self.0.put(&number.to_le_bytes()[..2]);
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len());
        self.0.put(text);
    }
}

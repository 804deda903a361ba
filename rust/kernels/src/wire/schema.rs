//! The tables of docs/wire.md: markers, element types, dialects, records, limits, and the columns of a node table.

use std::ops::Range;

pub const MAGIC: [u8; 4] = *b"\x89NIF";

/// Frames within frames; one that holds none is 1.
pub const DEPTH: usize = 64;
/// Values in a frame, itself included.
pub const NODES: usize = 512;
/// Bytes of a name or title.
pub const NAME: usize = 255;
/// Columns of a table of live handles: slot, generation, bytes, device.
pub const LIVE: usize = 4;
/// Columns of a node table.
pub const COLUMNS: usize = 14;
/// What the parts of a version 2 frame are aligned to; the length of its header too.
pub const LINE: usize = 64;

/// The element type whose bytes are checked.
pub const BOOL: u8 = 5;

/// Bytes of an element, by the code of its type; code 0 is no type.
const ITEMS: [u8; 15] = [0, 4, 8, 4, 8, 1, 1, 2, 1, 2, 4, 8, 2, 8, 16];

/// Bytes of an element. No such type: `None`.
pub fn item(dtype: u8) -> Option<u8> {
    ITEMS.get(usize::from(dtype)).copied().filter(|size| *size > 0)
}

/// What a marker's payload is.
#[derive(Clone, Copy, Default)]
pub enum Kind {
    #[default]
    Scalar,
    Array,
    Buffer,
    Texture,
    Record(&'static Record),
}

/// A type of value. In version 1 it has the last of its element types and the first of its numbers of axes.
pub struct Marker {
    pub code: u8,
    pub kind: Kind,
    pub dtypes: &'static [u8],
    pub ndims: &'static [u8],
    in_version_1: bool,
}

const fn marker(code: u8, kind: Kind, dtypes: &'static [u8], ndims: &'static [u8]) -> Marker {
    Marker { code, kind, dtypes, ndims, in_version_1: true }
}

static MARKERS: [Marker; 20] = [
    marker(0x01, Kind::Scalar, &[1], &[0]),
    marker(0x02, Kind::Scalar, &[2], &[0]),
    marker(0x03, Kind::Scalar, &[3], &[0]),
    marker(0x04, Kind::Scalar, &[4], &[0]),
    marker(0x05, Kind::Scalar, &[BOOL], &[0]),
    marker(0x10, Kind::Array, &[1], &[1]),
    marker(0x11, Kind::Array, &[2], &[1]),
    marker(0x12, Kind::Array, &[3], &[1]),
    marker(0x13, Kind::Array, &[4], &[1]),
    marker(0x20, Kind::Array, &[1], &[2]),
    marker(0x21, Kind::Array, &[2], &[2]),
    marker(0x22, Kind::Array, &[1], &[3]),
    marker(0x23, Kind::Array, &[2], &[3]),
    marker(0x30, Kind::Buffer, &[0], &[0]),
    marker(0x31, Kind::Texture, &[0], &[0]),
    marker(0x40, Kind::Record(&NEURAL_NETWORK), &[0], &[0]),
    marker(0x41, Kind::Record(&TENSOR_OPERATION), &[0], &[0]),
    marker(0x42, Kind::Record(&KERNEL_DESCRIPTOR), &[0], &[0]),
    marker(0x50, Kind::Array, &[13, 14], &[1]),
    Marker {
        in_version_1: false,
        ..marker(0x60, Kind::Array, &[1, 2, 3, 4, BOOL, 6, 7, 8, 9, 10, 11, 12, 13, 14], &[0, 1, 2, 3, 4])
    },
];

impl Marker {
    /// Bytes of a scalar's or device type's payload; others have any number.
    pub fn fixed_length(&self) -> Option<usize> {
        match self.kind {
            Kind::Scalar => item(self.dtypes[0]).map(usize::from),
            Kind::Buffer => Some(20),
            Kind::Texture => Some(28),
            Kind::Array | Kind::Record(_) => None,
        }
    }
}

/// The version 1 layout that one language prefers.
pub struct Dialect {
    /// Bytes of a dimension and of a record's length.
    pub dimension: usize,
    /// Of arrays of two axes and more.
    pub order: i64,
    /// Whether arrays carry an alignment and padding.
    pub aligned: bool,
    dimension_max: i64,
    /// A frame's length is below two to this power.
    frame_bits: u32,
}

const COMPACT: Dialect =
    Dialect { dimension: 4, order: 0, aligned: false, dimension_max: (1 << 31) - 1, frame_bits: 32 };
const WIDE: Dialect = Dialect { dimension: 8, order: 0, aligned: false, dimension_max: 1 << 40, frame_bits: 63 };

/// By code: rust, zig, nim, julia.
static DIALECTS: [Dialect; 4] = [COMPACT, Dialect { aligned: true, ..COMPACT }, WIDE, Dialect { order: 1, ..WIDE }];

impl Dialect {
    pub fn by_code(code: i64) -> Option<&'static Self> {
        usize::try_from(code).ok().and_then(|code| DIALECTS.get(code))
    }
}

/// How a frame is laid out.
#[derive(Clone, Copy)]
pub enum Format {
    One(&'static Dialect),
    Two,
}

impl Format {
    pub fn new(version: i64, dialect: &'static Dialect) -> Self {
        if version == 1 { Self::One(dialect) } else { Self::Two }
    }

    /// The marker of that code, if its role allows it.
    pub fn marker(self, code: u8, role: Option<Role>) -> Option<&'static Marker> {
        let marker = MARKERS.iter().find(|it| it.code == code)?;
        let known = marker.in_version_1 || matches!(self, Self::Two);
        (known && role.is_none_or(|role| role.child.markers.contains(&code))).then_some(marker)
    }

    /// Bytes before the payload.
    pub fn header_length(self, marker: &Marker) -> usize {
        match (self, &marker.kind) {
            (Self::Two, _) => LINE,
            (Self::One(dialect), Kind::Array) => {
                2 + usize::from(marker.ndims[0]) * dialect.dimension + usize::from(dialect.aligned)
            }
            (Self::One(dialect), Kind::Record(_)) => 2 + dialect.dimension,
            (Self::One(_), _) => 2,
        }
    }

    pub fn dimension_max(self) -> i64 {
        match self {
            Self::One(dialect) => dialect.dimension_max,
            Self::Two => WIDE.dimension_max,
        }
    }

    /// Whether a frame of so many bytes can be expressed.
    pub fn has_room_for(self, length: u64) -> bool {
        let bits = match self {
            Self::One(dialect) => dialect.frame_bits,
            Self::Two => WIDE.frame_bits,
        };
        length >> bits == 0
    }

    /// Zero bytes after a part of a record that has this length.
    pub fn gap(self, length: usize) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Two => length.wrapping_neg() % LINE,
        }
    }

    /// Zero bytes after an array's payload of this length.
    pub fn padding(self, length: u64, alignment: u8) -> u8 {
        match self {
            // An alignment divides 256: the lowest byte tells.
            Self::One(dialect) if dialect.aligned => length.wrapping_neg().to_le_bytes()[0] % alignment,
            _ => 0,
        }
    }
}

/// What one child of a record must be.
struct Child {
    name: &'static str,
    markers: &'static [u8],
    /// A scalar is 0 or more and below it.
    below: Option<i32>,
    /// Elements of an array.
    length: Option<i64>,
}

const fn child(name: &'static str, markers: &'static [u8]) -> Child {
    Child { name, markers, below: None, length: None }
}

/// What children a record has: first the fixed ones, then whole groups, or any others.
pub struct Record {
    fixed: &'static [Child],
    group: &'static [Child],
    others: bool,
}

static NEURAL_NETWORK: Record = Record {
    fixed: &[],
    group: &[
        child("weights", &[0x20, 0x21]),
        child("bias", &[0x10, 0x11]),
        Child { below: Some(5), ..child("activation", &[0x03]) },
    ],
    others: false,
};
static TENSOR_OPERATION: Record = Record {
    fixed: &[],
    group: &[child("shape", &[0x13]), Child { below: Some(15), ..child("dtype", &[0x03]) }],
    others: false,
};
static KERNEL_DESCRIPTOR: Record = Record {
    fixed: &[Child { length: Some(3), ..child("grid", &[0x12]) }, Child { length: Some(3), ..child("block", &[0x12]) }],
    group: &[],
    others: true,
};

impl Record {
    /// Whether it can have so many children.
    pub fn accepts(&self, count: usize) -> bool {
        count >= self.fixed.len() && (self.others || (count - self.fixed.len()).is_multiple_of(self.group.len()))
    }

    /// What the child at this index must be; `None`: anything.
    pub fn role(&self, index: usize) -> Option<Role> {
        if let Some(child) = self.fixed.get(index) {
            return Some(Role { child, group: None });
        }
        let index = index - self.fixed.len();
        let group = index.checked_div(self.group.len())?;
        Some(Role { child: &self.group[index % self.group.len()], group: Some(group) })
    }
}

/// What a child must be, and in which group.
#[derive(Clone, Copy)]
pub struct Role {
    child: &'static Child,
    group: Option<usize>,
}

impl Role {
    /// Whether this is its name: in a group it is preceded by the group's number and a dot.
    pub fn is_named(self, name: &[u8]) -> bool {
        let Some(before) = name.strip_suffix(self.child.name.as_bytes()) else { return false };
        match self.group {
            None => before.is_empty(),
            Some(group) => before.strip_suffix(b".").is_some_and(|digits| spells(digits, group)),
        }
    }

    /// Whether the child is within its bounds. `value` reads a scalar.
    pub fn admits(self, node: &Node, value: impl FnOnce() -> i32) -> bool {
        self.child.length.is_none_or(|length| node.shape[0] == length)
            && self.child.below.is_none_or(|below| (0..below).contains(&value()))
    }
}

/// Whether these are a number's decimal digits.
fn spells(digits: &[u8], number: usize) -> bool {
    let Some((last, rest)) = digits.split_last() else { return false };
    usize::from(last.wrapping_sub(b'0')) == number % 10
        && if number < 10 { rest.is_empty() } else { spells(rest, number / 10) }
}

/// A run of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub offset: i64,
    pub length: i64,
}

/// A number in a node table.
#[expect(clippy::cast_possible_wrap, reason = "counts what is in memory, which hasn't 2^63 bytes")]
pub fn cell(number: usize) -> i64 {
    number as i64
}

impl From<&Range<usize>> for Span {
    fn from(place: &Range<usize>) -> Self {
        Self { offset: cell(place.start), length: cell(place.len()) }
    }
}

impl Span {
    /// The bytes, if they are there.
    pub fn of(self, data: &[u8]) -> Option<&[u8]> {
        let offset = usize::try_from(self.offset).ok()?;
        let end = offset.checked_add(usize::try_from(self.length).ok()?)?;
        data.get(offset..end)
    }
}

/// A row of a node table: one number a column.
pub type Row = [i64; COLUMNS];

/// One value, as a node table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub marker: i64,
    pub dtype: i64,
    pub ndim: i64,
    pub shape: [i64; 4],
    pub order: i64,
    pub data: Span,
    pub name: Span,
    pub parent: i64,
    pub count: i64,
}

impl From<Row> for Node {
    fn from(row: Row) -> Self {
        let [marker, dtype, ndim, shape @ .., order, at, size, name, letters, parent, count] = row;
        let [data, name] = [(at, size), (name, letters)].map(|(offset, length)| Span { offset, length });
        Self { marker, dtype, ndim, shape, order, data, name, parent, count }
    }
}

impl From<Node> for Row {
    fn from(node: Node) -> Self {
        let Node { marker, dtype, ndim, shape: [s0, s1, s2, s3], order, data, name, parent, count } = node;
        let [at, size] = [data.offset, data.length];
        [marker, dtype, ndim, s0, s1, s2, s3, order, at, size, name.offset, name.length, parent, count]
    }
}

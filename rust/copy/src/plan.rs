//! A copy in its simplest form.

use super::{Element, Layouts, SHORT};

/// The most axes an array may have.
pub const AXES_MAX: usize = 8;

/// One more: the parts of an element.
const ROOM: usize = AXES_MAX + 1;

/// So many elements, and how far each is from the one before, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    pub length: usize,
    pub target: isize,
    pub source: isize,
}

impl Axis {
    /// What is left when there are no axes.
    pub const ONE: Self = Self { length: 1, target: 0, source: 0 };

    /// The addresses of one of its elements.
    pub fn at(self, index: usize, to: *mut u8, from: *const u8) -> (*mut u8, *const u8) {
        let index = index.cast_signed();
        (to.wrapping_offset(index * self.target), from.wrapping_offset(index * self.source))
    }
}

/// The axes of a copy, from the longest stride of the target to the shortest; and where the first element lies.
///
/// No axis has length 1, no stride of the target is negative, and no two axes could be one.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub to: *mut u8,
    pub from: *const u8,
    axes: [Axis; ROOM],
    count: usize,
}

impl Plan {
    /// Of arrays that aren't empty.
    pub fn new(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) -> Self {
        let &Layouts { element, shape, target, source } = layouts;
        let mut plan = Self { to, from, axes: [Axis::ONE; ROOM], count: 0 };
        for ((length, target), source) in shape.iter().zip(target).zip(source) {
            plan.add(Axis { length: *length, target: *target, source: *source });
        }
        plan.add(parts(element));
        plan.merge();
        plan
    }

    fn axes(&self) -> &[Axis] {
        &self.axes[..self.count]
    }

    /// Takes out the axis to go along, and the one to go across it.
    ///
    /// The first is the last axis of the target, and the second one that lies closer in the source, if there is such a one. But
    /// where the last axis is short, the way goes along the longest one and across the last.
    pub fn take_inner(&mut self) -> (Axis, Axis) {
        let Some(last) = self.count.checked_sub(1) else { return (Axis::ONE, Axis::ONE) };
        let distance = |it: &usize| self.axes[*it].source.unsigned_abs();
        let length = |it: &usize| self.axes[*it].length;
        let is_short = length(&last) < SHORT;
        let other = if is_short {
            (0..last).filter(|it| length(it) > length(&last)).max_by_key(length)
        } else {
            (0..last).filter(|it| (1..distance(&last)).contains(&distance(it))).min_by_key(distance)
        };
        let last = self.take(last);
        match other.map(|it| self.take(it)) {
            Some(other) if is_short => (other, last),
            other => (last, other.unwrap_or(Axis::ONE)),
        }
    }

    /// Takes an axis out.
    fn take(&mut self, index: usize) -> Axis {
        let axis = self.axes[index];
        self.count -= 1;
        for index in index..self.count {
            self.axes[index] = self.axes[index + 1];
        }
        axis
    }

    /// Calls `line` with the addresses of all elements, in the order of the target.
    pub fn each(&self, line: &mut impl FnMut(*mut u8, *const u8)) {
        each(self.axes(), self.to, self.from, line);
    }

    fn add(&mut self, mut axis: Axis) {
        if axis.length == 1 {
            return;
        }
        if axis.target < 0 {
            (self.to, self.from) = axis.at(axis.length - 1, self.to, self.from);
            (axis.target, axis.source) = (-axis.target, -axis.source);
        }
        let mut index = self.count;
        while index > 0 && self.axes[index - 1].target < axis.target {
            self.axes[index] = self.axes[index - 1];
            index -= 1;
        }
        self.axes[index] = axis;
        self.count += 1;
    }

    /// Makes one axis of two wherever both sides allow it.
    fn merge(&mut self) {
        let mut index = 1;
        while index < self.count {
            let (outer, inner) = (self.axes[index - 1], self.axes[index]);
            let length = inner.length.cast_signed();
            if outer.target == inner.target * length && outer.source == inner.source * length {
                self.take(index - 1);
                self.axes[index - 1].length *= outer.length;
            } else {
                index += 1;
            }
        }
    }
}

fn each(axes: &[Axis], to: *mut u8, from: *const u8, line: &mut impl FnMut(*mut u8, *const u8)) {
    let Some((axis, inner)) = axes.split_first() else { return line(to, from) };
    for index in 0..axis.length {
        let (to, from) = axis.at(index, to, from);
        each(inner, to, from, line);
    }
}

/// The largest number of bytes, up to 16, that moves as one and divides an element.
pub fn unit(size: usize) -> usize {
    1 << size.trailing_zeros().min(4)
}

/// An element as an axis: a complex number is two numbers, and a large element many units.
fn parts(element: Element) -> Axis {
    let (length, target, source) = match element {
        Element::Bytes(size) => (size >> unit(size).ilog2(), unit(size), unit(size)),
        Element::F32ToF64 => (1, 8, 4),
        Element::F64ToF32 => (1, 4, 8),
        Element::C64ToC128 => (2, 8, 4),
        Element::C128ToC64 => (2, 4, 8),
    };
    Axis { length, target: target.cast_signed(), source: source.cast_signed() }
}

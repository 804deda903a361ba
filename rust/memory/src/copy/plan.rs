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
    /// None if there is nothing to copy.
    pub fn new(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) -> Option<Self> {
        let &Layouts { element, shape, target, source } = layouts;
        assert!(shape.len() <= AXES_MAX, "at most {AXES_MAX} axes, got {}", shape.len());
        assert!(shape.len() == target.len() && shape.len() == source.len(), "a stride for each axis");
        if layouts.bytes() == 0 {
            return None;
        }
        let mut plan = Self { to, from, axes: [Axis::ONE; ROOM], count: 0 };
        for ((length, target), source) in shape.iter().zip(target).zip(source) {
            plan.add(Axis { length: *length, target: *target, source: *source });
        }
        plan.add(parts(element));
        plan.merge();
        Some(plan)
    }

    fn axes(&self) -> &[Axis] {
        &self.axes[..self.count]
    }

    /// Takes out the two axes that are copied together: the one to go along, and, where there is one, the one that lies
    /// closer in the source (or, if that of the target's order is too short to go along it, that one).
    pub fn take_inner(&mut self) -> (Axis, Option<Axis>) {
        let Some(last) = self.count.checked_sub(1) else { return (Axis::ONE, None) };
        let inner = self.axes[last];
        let other = if inner.length < SHORT {
            (0..last).max_by_key(|it| self.axes[*it].length).filter(|it| self.axes[*it].length > inner.length)
        } else {
            let distance = |it: usize| self.axes[it].source.unsigned_abs();
            (0..last).filter(|it| (1..distance(last)).contains(&distance(*it))).min_by_key(|it| distance(*it))
        };
        let inner = self.take(last);
        let other = other.map(|it| self.take(it));
        match other {
            Some(other) if inner.length < SHORT => (other, Some(inner)),
            _ => (inner, other),
        }
    }

    /// Takes an axis out.
    fn take(&mut self, index: usize) -> Axis {
        self.axes[index..self.count].rotate_left(1);
        self.count -= 1;
        self.axes[self.count]
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
        let index = self.axes().iter().take_while(|it| it.target >= axis.target).count();
        self.axes[self.count] = axis;
        self.count += 1;
        self.axes[index..self.count].rotate_right(1);
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
    (1 << size.trailing_zeros()).min(16)
}

/// An element as an axis: a complex number is two numbers, and a large element many units.
fn parts(element: Element) -> Axis {
    let (length, target, source) = match element {
        Element::Bytes(size) => (size / unit(size), unit(size), unit(size)),
        Element::F32ToF64 => (1, 8, 4),
        Element::F64ToF32 => (1, 4, 8),
        Element::C64ToC128 => (2, 8, 4),
        Element::C128ToC64 => (2, 4, 8),
    };
    Axis { length, target: target.cast_signed(), source: source.cast_signed() }
}

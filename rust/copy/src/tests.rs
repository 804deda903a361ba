//! Copies against a loop that takes one element after the other.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use twox_hash::XxHash3_64;

use super::{AXES_MAX, Element, Layouts, Summed, copy, copy_summed};

/// How one side of a copy lies in memory: offsets are from the start of a buffer that holds it all.
#[derive(Debug, Clone)]
struct Side {
    strides: Vec<isize>,
    first: usize,
    size: usize,
}

/// An axis of one side: where it stands among the axes, how many elements it leaves out, and whether it goes backwards or stays.
#[derive(Debug, Clone)]
struct Way {
    place: u32,
    gap: usize,
    kind: u8,
}

fn way() -> impl Strategy<Value = Way> {
    let gap = prop_oneof![4 => Just(0_usize), 1 => 1..4_usize];
    (any::<u32>(), gap, 0..10_u8).prop_map(|(place, gap, kind)| Way { place, gap, kind })
}

impl Side {
    fn new(shape: &[usize], ways: &[Way], item: usize, shift: usize, may_stay: bool) -> Self {
        let mut strides = vec![0; shape.len()];
        let (mut first, mut extent) = (0, item);
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|axis| ways[*axis].place % 8);
        for axis in order {
            let step = extent * (1 + ways[axis].gap);
            let span = step * shape[axis].saturating_sub(1);
            match ways[axis].kind {
                0 if may_stay => continue,
                1 | 2 => {
                    strides[axis] = -step.cast_signed();
                    first += span;
                }
                _ => strides[axis] = step.cast_signed(),
            }
            extent += span;
        }
        Self { strides, first: first + shift, size: extent + shift }
    }

    fn offset(&self, index: &[usize]) -> usize {
        let steps = index.iter().zip(&self.strides).map(|(index, stride)| index.cast_signed() * stride);
        self.first.checked_add_signed(steps.sum()).unwrap()
    }
}

/// Calls `each` with every index of a shape, in row-major order.
fn indexes(shape: &[usize], mut each: impl FnMut(&[usize])) {
    let mut index = vec![0; shape.len()];
    for mut number in 0..shape.iter().product::<usize>() {
        for (index, length) in index.iter_mut().zip(shape).rev() {
            *index = number % length;
            number /= length;
        }
        each(&index);
    }
}

fn source_size(element: Element) -> usize {
    match element {
        Element::Bytes(size) => size,
        Element::F32ToF64 => 4,
        Element::F64ToF32 | Element::C64ToC128 => 8,
        Element::C128ToC64 => 16,
    }
}

fn converted(element: Element, source: &[u8]) -> Vec<u8> {
    let widen = |it: &[u8]| f64::from(f32::from_ne_bytes(it.try_into().unwrap())).to_ne_bytes();
    #[expect(clippy::cast_possible_truncation, reason = "that is the conversion")]
    let narrow = |it: &[u8]| (f64::from_ne_bytes(it.try_into().unwrap()) as f32).to_ne_bytes();
    match element {
        Element::Bytes(_) => source.to_vec(),
        Element::F32ToF64 | Element::C64ToC128 => source.chunks(4).flat_map(widen).collect(),
        Element::F64ToF32 | Element::C128ToC64 => source.chunks(8).flat_map(narrow).collect(),
    }
}

fn element() -> impl Strategy<Value = Element> {
    use Element::{Bytes, C64ToC128, C128ToC64, F32ToF64, F64ToF32};
    let sizes = [1, 2, 4, 8, 16, 3, 12, 48].map(Bytes);
    select([&sizes[..], &[F32ToF64, F64ToF32, C64ToC128, C128ToC64]].concat())
}

/// Few axes that are long enough for tiles and streams, or many short ones.
fn shape() -> impl Strategy<Value = Vec<usize>> {
    let short = prop::collection::vec(prop_oneof![1 => Just(0_usize), 20 => 1..5_usize], 0..=AXES_MAX);
    let long = prop::collection::vec(1..150_usize, 1..=2);
    let cube = prop::collection::vec(1..30_usize, 3);
    let line = (1..9_usize, 1..9_usize, 1..2000_usize, any::<Index>()).prop_map(|(a, b, long, place)| {
        let mut shape = vec![a, b];
        shape.insert(place.index(3), long);
        shape
    });
    prop_oneof![short, long, cube, line]
}

/// What is left of a copy: both buffers, and the checksum if there was to be one.
fn check(element: Element, shape: &[usize], target: &Side, source: &Side, summed: bool) {
    let words = std::iter::successors(Some(1_u32), |it| Some(it.wrapping_mul(747_796_405).wrapping_add(2_891_336_453)));
    let from: Vec<u8> = words.flat_map(|it| it.rotate_left(it >> 27).to_ne_bytes()).take(source.size).collect();
    let mut to = vec![0xA5; target.size];
    let mut expected = to.clone();
    let mut row_major = Vec::new();
    indexes(shape, |index| {
        let value = converted(element, &from[source.offset(index)..][..source_size(element)]);
        expected[target.offset(index)..][..value.len()].copy_from_slice(&value);
        row_major.extend(value);
    });
    let layouts = Layouts { element, shape, target: &target.strides, source: &source.strides };
    // SAFETY: all offsets lie in the buffers, as the loop has shown.
    let sum = unsafe {
        let (to, from) = (to.as_mut_ptr().add(target.first), from.as_ptr().add(source.first));
        if summed {
            Some(copy_summed(&layouts, to, from))
        } else {
            copy(&layouts, to, from);
            None
        }
    };
    assert!(to == expected, "the target differs");
    assert_eq!(sum.unwrap_or_default(), if summed { XxHash3_64::oneshot(&row_major) } else { 0 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn copies_are_what_a_loop_makes(
        element in element(),
        shape in shape(),
        targets in prop::collection::vec(way(), AXES_MAX),
        sources in prop::collection::vec(way(), AXES_MAX),
        shifts in select(vec![(0, 0), (16, 0), (0, 8), (1, 3), (64, 16)]),
        summed in any::<bool>(),
    ) {
        let target = Side::new(&shape, &targets, element.target_size(), shifts.0, false);
        let source = Side::new(&shape, &sources, source_size(element), shifts.1, true);
        check(element, &shape, &target, &source, summed);
    }

    #[test]
    fn contiguous_copies_are_summed(size in prop_oneof![0..40_000_usize, Just(16 << 10), Just(17 << 10)], shift in 0..65_usize) {
        let side = |shift| Side { strides: vec![1], first: shift, size: size + shift };
        check(Element::Bytes(1), &[size], &side(shift), &side(64 - shift), true);
    }
}

#[test]
fn floats_keep_the_payload_of_a_nan() {
    let from = [0x7FC1_2345_u32, 0xFFC0_0001, 0x8000_0000, 1];
    let mut to = [0_u64; 4];
    let layouts = Layouts { element: Element::F32ToF64, shape: &[4], target: &[8], source: &[4] };
    // SAFETY: both are arrays of four.
    unsafe { copy(&layouts, to.as_mut_ptr().cast(), from.as_ptr().cast()) };
    assert_eq!(to, [0x7FF8_2468_A000_0000, 0xFFF8_0000_2000_0000, 1 << 63, 0x36A0_0000_0000_0000]);
}

#[test]
fn an_array_may_have_more_axes_than_a_plan() {
    for (axes, length) in [(AXES_MAX + 1, 2), (AXES_MAX + 4, 2), (64, 1)] {
        let powers: Vec<usize> = std::iter::successors(Some(1), |it| Some(it * length)).take(axes + 1).collect();
        let count = powers[axes];
        let from: Vec<u16> = (0..count).map(|it| u16::try_from(it).unwrap()).collect();
        let mut to = vec![0_u16; count];
        let shape = vec![length; axes];
        let column: Vec<isize> = powers[..axes].iter().map(|it| 2 * it.cast_signed()).collect();
        let row: Vec<isize> = column.iter().rev().copied().collect();
        let layouts = Layouts { element: Element::Bytes(2), shape: &shape, target: &column, source: &row };
        // SAFETY: both have `count` elements, and the strides lead to each of them.
        unsafe { copy(&layouts, to.as_mut_ptr().cast(), from.as_ptr().cast()) };
        // Transposed, an element's number has its digits in reverse.
        let reversed = |number: usize| (0..axes).fold(0, |n, axis| n * length + number / powers[axis] % length);
        assert!((0..count).all(|it| usize::from(to[reversed(it)]) == it));
    }
}

#[test]
fn wrong_layouts_are_refused() {
    let (mut to, from) = ([0_u8; 1], [0_u8; 1]);
    for (axes, strides) in [(1, 0), (2, 1), (AXES_MAX + 1, AXES_MAX)] {
        let (shape, strides) = (vec![1; axes], vec![1; strides]);
        let layouts = Layouts { element: Element::Bytes(1), shape: &shape, target: &strides, source: &strides };
        // SAFETY: one byte, if it came to that.
        let copy = || unsafe { copy(&layouts, to.as_mut_ptr(), from.as_ptr()) };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(copy)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_put_in_pieces_is_summed(
        pieces in prop::collection::vec(prop_oneof![0..200_usize, 900..1100_usize, 2000..9000_usize], 1..9),
        shift in 0..33_usize,
    ) {
        let from: Vec<u8> = (0_u32..40_000).map(|it| it.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let size: usize = pieces.iter().sum();
        let mut room = vec![0xAA_u8; size + shift];
        let mut out = Summed::new(&mut room[shift..], true);
        let mut expected = vec![];
        for (index, length) in pieces.iter().enumerate() {
            if index % 3 == 2 {
                out.zeros(*length);
                expected.resize(expected.len() + length, 0);
            } else {
                out.put(&from[index..index + length]);
                expected.extend_from_slice(&from[index..index + length]);
            }
            prop_assert_eq!(out.filled(), expected.len());
        }
        let sum = out.finish();
        prop_assert_eq!(sum, XxHash3_64::oneshot(&expected));
        prop_assert_eq!(&room[shift..], expected.as_slice());
    }
}

//! Failures on purpose, one of each kind that a call survives.

use nif::{Error, nif};

/// `error_value(message)`: fails with that message, as an ordinary error.
#[nif(fault)]
pub fn error_value(message: &str) -> Result<(), Error> {
    Err(Error::Value { argument: None, message: message.to_owned().into() })
}

/// `panic(message)`: panics with that message.
#[nif(fault)]
pub fn panic(message: &str) {
    panic!("{message}");
}

/// `out_of_bounds(index)`: element `index` of eight.
#[nif(fault)]
pub fn out_of_bounds(index: i64) -> i64 {
    let cells = [0, 1, 2, 3, 4, 5, 6, 7];
    // What can't be an index is too large for one.
    cells[usize::try_from(index).unwrap_or(usize::MAX)]
}

/// `overflow(x)`: x + 1.
#[nif(fault)]
pub fn overflow(x: i64) -> i64 {
    x + 1
}

/// `divide(x, y)`: the truncated quotient.
#[nif(fault)]
pub fn divide(x: i64, y: i64) -> i64 {
    x / y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_range_works() {
        assert_eq!(out_of_bounds(7), 7);
        assert_eq!(overflow(i64::MAX - 1), i64::MAX);
        assert_eq!(divide(-7, 2), -3);
    }

    #[test]
    fn errors_carry_their_message() {
        assert_eq!(error_value("so it goes").unwrap_err().to_string(), "so it goes");
    }

    #[test]
    #[should_panic(expected = "the len is 8 but the index is 8")]
    fn bounds_are_checked() {
        out_of_bounds(8);
    }

    #[test]
    #[should_panic(expected = "attempt to add with overflow")]
    fn sums_are_checked() {
        overflow(i64::MAX);
    }

    #[test]
    #[should_panic(expected = "attempt to divide by zero")]
    fn quotients_are_checked() {
        divide(1, 0);
    }
}

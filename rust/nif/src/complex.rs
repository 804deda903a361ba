//! Complex numbers, with what one computes with them every day. (Rust's standard library has none.)

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// A complex number: Python's `complex`, or an element of an array. Its memory is that of `num_complex::Complex`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Complex<T> {
    pub re: T,
    pub im: T,
}

impl<T> Complex<T> {
    pub const fn new(re: T, im: T) -> Self {
        Self { re, im }
    }
}

macro_rules! complex {
    ($($float:ty)+) => {
        $(
            impl Complex<$float> {
                /// The imaginary unit.
                pub const I: Self = Self::new(0.0, 1.0);

                #[must_use]
                pub fn conj(self) -> Self {
                    Self::new(self.re, -self.im)
                }

                /// Its distance from zero.
                #[must_use]
                pub fn norm(self) -> $float {
                    self.re.hypot(self.im)
                }

                #[must_use]
                pub fn norm_sqr(self) -> $float {
                    self.re * self.re + self.im * self.im
                }

                /// Its angle, in radians.
                #[must_use]
                pub fn arg(self) -> $float {
                    self.im.atan2(self.re)
                }

                #[must_use]
                pub fn from_polar(norm: $float, arg: $float) -> Self {
                    Self::new(norm * arg.cos(), norm * arg.sin())
                }

                #[must_use]
                pub fn exp(self) -> Self {
                    Self::from_polar(self.re.exp(), self.im)
                }

                #[must_use]
                pub fn sqrt(self) -> Self {
                    Self::from_polar(self.norm().sqrt(), self.arg() / 2.0)
                }
            }

            impl From<$float> for Complex<$float> {
                fn from(re: $float) -> Self {
                    Self::new(re, 0.0)
                }
            }

            impl Add for Complex<$float> {
                type Output = Self;

                fn add(self, other: Self) -> Self {
                    Self::new(self.re + other.re, self.im + other.im)
                }
            }

            impl Sub for Complex<$float> {
                type Output = Self;

                fn sub(self, other: Self) -> Self {
                    Self::new(self.re - other.re, self.im - other.im)
                }
            }

            impl Mul for Complex<$float> {
                type Output = Self;

                fn mul(self, other: Self) -> Self {
                    Self::new(self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re)
                }
            }

            impl Div for Complex<$float> {
                type Output = Self;

                #[allow(clippy::suspicious_arithmetic_impl, reason = "a quotient is a product with the inverse")]
                fn div(self, other: Self) -> Self {
                    // The larger part comes first, so that no square overflows.
                    if other.re.abs() >= other.im.abs() {
                        let ratio = other.im / other.re;
                        let whole = other.re + other.im * ratio;
                        Self::new((self.re + self.im * ratio) / whole, (self.im - self.re * ratio) / whole)
                    } else {
                        let ratio = other.re / other.im;
                        let whole = other.re * ratio + other.im;
                        Self::new((self.re * ratio + self.im) / whole, (self.im * ratio - self.re) / whole)
                    }
                }
            }

            impl Neg for Complex<$float> {
                type Output = Self;

                fn neg(self) -> Self {
                    Self::new(-self.re, -self.im)
                }
            }

            impl Sum for Complex<$float> {
                fn sum<I: Iterator<Item = Self>>(numbers: I) -> Self {
                    numbers.fold(Self::default(), Add::add)
                }
            }

            complex!(@mixed $float: Add add +; Sub sub -; Mul mul *; Div div /;);
            complex!(@assign $float: AddAssign add_assign +; SubAssign sub_assign -; MulAssign mul_assign *; DivAssign div_assign /;);
        )+
    };
    (@mixed $float:ty: $($trait:ident $method:ident $operator:tt;)+) => {
        $(
            impl $trait<$float> for Complex<$float> {
                type Output = Self;

                fn $method(self, other: $float) -> Self {
                    self $operator Self::from(other)
                }
            }

            impl $trait<Complex<$float>> for $float {
                type Output = Complex<$float>;

                fn $method(self, other: Complex<$float>) -> Complex<$float> {
                    Complex::from(self) $operator other
                }
            }
        )+
    };
    (@assign $float:ty: $($trait:ident $method:ident $operator:tt;)+) => {
        $(
            impl $trait for Complex<$float> {
                fn $method(&mut self, other: Self) {
                    *self = *self $operator other;
                }
            }
        )+
    };
}

complex!(f32 f64);

/// As Python writes it, without parentheses: `1+2j`.
impl<T: fmt::Display> fmt::Display for Complex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:+}j", self.re, self.im)
    }
}

#[cfg(test)]
mod tests {
    use super::Complex;

    #[test]
    fn it_computes() {
        let (a, b) = (Complex::<f64>::new(1.0, 2.0), Complex::<f64>::new(3.0, -4.0));
        assert_eq!(a * b, Complex::new(11.0, 2.0));
        assert_eq!(a * b / b, a);
        assert_eq!((b.norm(), b.norm_sqr(), b.conj()), (5.0, 25.0, Complex::new(3.0, 4.0)));
        assert_eq!(2.0 * a - a, a);
        assert_eq!([a, b, -a].into_iter().sum::<Complex<f64>>(), b);
        assert!((a.sqrt() * a.sqrt() - a).norm() < 1e-12);
        assert_eq!(Complex::<f32>::I * Complex::<f32>::I, Complex::<f32>::from(-1.0));
        assert_eq!(a.to_string(), "1+2j");
    }
}

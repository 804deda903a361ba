//! Lists of texts: one run of bytes, of each text its size in bytes, a u64 in the machine's order, then its UTF-8.
#![allow(unsafe_code, reason = "what is made was read before")]

use crate::abi::Any;
use crate::args::{Argument, Raw, unexpected_type};
use crate::element::Element;
use crate::error::Error;
use crate::outcome::Item;
use crate::signature::{Kind, Param};
use crate::tensor::Tensor;
use crate::value::Value;

/// The texts of a run of bytes, one after the other; None in the place of one that the bytes end in, and then no more.
#[derive(Clone, Debug)]
pub struct Texts<'a>(&'a [u8]);

impl<'a> Texts<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Texts<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let whole = self.0.split_first_chunk().and_then(|(size, rest)| {
            let size = usize::try_from(u64::from_ne_bytes(*size)).ok()?;
            rest.split_at_checked(size)
        });
        self.0 = whole.map_or(&[], |(_, rest)| rest);
        Some(whole.map(|(text, _)| text))
    }
}

/// Add a text to such bytes.
pub fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_ne_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A checked list.
#[derive(Clone, Copy, Debug)]
pub struct RawTexts<'a>(&'a [u8]);

impl Raw for RawTexts<'_> {}

impl<'a> RawTexts<'a> {
    fn read(value: Value<'a>, param: &Param) -> Result<Self, Error> {
        let bytes = value.bytes().ok_or_else(|| unexpected_type(value, param))?;
        for text in Texts::new(bytes) {
            let text = text.ok_or_else(|| Error::value(param.name, "has a text that is cut off"))?;
            std::str::from_utf8(text).map_err(|_| Error::value(param.name, "expected UTF-8"))?;
        }
        Ok(Self(bytes))
    }

    fn each(self) -> impl Iterator<Item = &'a str> {
        Texts::new(self.0).flatten().map(|text| std::str::from_utf8(text).unwrap_or_default())
    }
}

macro_rules! lists {
    ($($type:ty: |$it:ident| $one:expr;)+) => {
        $(
            impl<'a> Argument<'a> for Vec<$type> {
                const KIND: Kind = Kind::Scalar("str[_]");
                type Raw = RawTexts<'a>;

                fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
                    RawTexts::read(value, param)
                }

                unsafe fn make(raw: Self::Raw) -> Self {
                    raw.each().map(|$it| $one).collect()
                }
            }

            impl<'a> Item for Vec<$type> {
                fn spell() -> String {
                    "str[_]".to_owned()
                }

                fn into_any(self) -> Result<Any, Error> {
                    let mut bytes = Vec::new();
                    for text in &self {
                        push(&mut bytes, text);
                    }
                    Tensor::of_bytes(u8::DTYPE, &[crate::args::extent(bytes.len())], &bytes)?.into_any()
                }
            }
        )+
    };
}

lists! {
    String: |it| it.to_owned();
    &'a str: |it| it;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_texts_that_were_added() {
        let mut bytes = Vec::new();
        for text in ["", "a", "größe\0"] {
            push(&mut bytes, text);
        }
        let texts: Vec<_> = Texts::new(&bytes).map(Option::unwrap).collect();
        assert_eq!(texts, [b"".as_slice(), b"a", "größe\0".as_bytes()]);
        for end in 1..bytes.len() {
            let whole = [8, 17].contains(&end); // after the first text, and the second
            assert_eq!(Texts::new(&bytes[..end]).all(|it| it.is_some()), whole, "{end}");
        }
        let too_large = u64::MAX.to_ne_bytes();
        assert_eq!(Texts::new(&too_large).collect::<Vec<_>>(), [None]);
    }
}

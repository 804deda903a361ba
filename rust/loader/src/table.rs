//! What a library's table says, as it can be sent to another process.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A library's table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    pub language: String,
    pub compiler: String,
    pub version: String,
    pub functions: Vec<Function>,
}

impl Table {
    /// Where each function of `promised` lies in this table, which must have the same functions, in any order.
    ///
    /// A worker numbers functions by their place in its own table. Two processes may list the same functions in different
    /// orders, so a host never uses a number that another worker gave.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn numbering(&self, promised: &Self) -> Result<Vec<u32>, String> {
        let mut places = HashMap::new();
        for (row, place) in self.functions.iter().zip(0u32..) {
            if places.insert(row.name.as_str(), (row, place)).is_some() {
                return Err(format!("it lists '{}' twice", row.name));
            }
        }
        let number = |promised: &Function| {
            let (row, place) =
                places.get(promised.name.as_str()).ok_or_else(|| format!("it has no function '{}'", promised.name))?;
            if row.signature != promised.signature {
                return Err(format!("its signature '{}' was '{}'", row.signature, promised.signature));
            }
            if row.flags != promised.flags {
                return Err(format!("its flags of '{}' are {:#x}, were {:#x}", row.name, row.flags, promised.flags));
            }
            Ok(*place)
        };
        let numbers = promised.functions.iter().map(number).collect::<Result<Vec<u32>, String>>()?;
        if self.functions.len() != numbers.len() {
            return Err(format!("it has {} functions, there were {}", self.functions.len(), numbers.len()));
        }
        Ok(numbers)
    }
}

/// A row of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    pub name: String,
    pub signature: String,
    pub doc: String,
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str, u32)]) -> Table {
        let functions = rows.iter().map(|(name, signature, flags)| Function {
            name: (*name).into(),
            signature: (*signature).into(),
            doc: String::new(),
            flags: *flags,
        });
        Table { functions: functions.collect(), ..Table::default() }
    }

    #[test]
    fn functions_are_numbered_by_name() {
        let promised = table(&[("a", "a() -> f64", 0), ("b", "b() -> f64", 1), ("c", "c() -> f64", 0)]);
        let other = table(&[("c", "c() -> f64", 0), ("a", "a() -> f64", 0), ("b", "b() -> f64", 1)]);
        assert_eq!(other.numbering(&promised), Ok(vec![1, 2, 0]));
        assert_eq!(promised.numbering(&promised), Ok(vec![0, 1, 2]));
        assert_eq!(table(&[]).numbering(&table(&[])), Ok(vec![]));
    }

    #[test]
    fn tables_that_differ_are_refused() {
        let promised = table(&[("a", "a() -> f64", 0), ("b", "b() -> f64", 1)]);
        for (rows, words) in [
            (&[("a", "a() -> f64", 0)][..], "no function 'b'"),
            (&[("a", "a() -> f64", 0), ("b", "b() -> i64", 1)], "signature 'b() -> i64' was 'b() -> f64'"),
            (&[("a", "a() -> f64", 4), ("b", "b() -> f64", 1)], "flags of 'a'"),
            (&[("a", "a() -> f64", 0), ("b", "b() -> f64", 1), ("c", "c() -> f64", 0)], "3 functions, there were 2"),
            (&[("a", "a() -> f64", 0), ("a", "a() -> f64", 0)], "lists 'a' twice"),
        ] {
            let refused = table(rows).numbering(&promised).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}

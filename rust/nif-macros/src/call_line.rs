//! The first line of a NIF's documentation: `` `dot(x[n], y[n])`: inner product of two vectors. ``

/// A parameter as the documentation writes it.
#[derive(Debug, PartialEq)]
pub struct Item {
    pub name: String,
    /// Empty for a scalar, `["..."]` for any shape.
    pub dims: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub struct CallLine {
    pub name: String,
    pub items: Vec<Item>,
    /// The names of a tuple's values: `-> (mean, n)`.
    pub results: Vec<String>,
    /// The documentation after the call.
    pub doc: String,
}

/// Reads the call at the start of a documentation; `None` if there isn't one.
pub fn parse(text: &str) -> Option<CallLine> {
    let text = text.trim_start();
    let (call, rest) = match text.strip_prefix('`') {
        Some(text) => text.split_once('`')?,
        None => text.split_at(end_of_call(text)?),
    };
    // A call that has its line for itself needs no period.
    let is_alone = rest.split('\n').next().is_some_and(|it| it.trim().is_empty());
    let doc = rest.strip_prefix([':', '.']).or(is_alone.then_some(rest))?.trim().to_owned();
    let (call, results) = call.split_once(" -> ").map_or((call, None), |(call, results)| (call, Some(results)));
    let results = match results {
        Some(results) => {
            results.strip_prefix('(')?.strip_suffix(')')?.split(',').map(identifier).collect::<Option<_>>()?
        }
        None => Vec::new(),
    };
    let (name, items) = call.strip_suffix(')')?.split_once('(')?;
    Some(CallLine { name: identifier(name)?, items: parse_items(items)?, results, doc })
}

/// Where a call without marks ends, with the names of its values if it has some.
fn end_of_call(text: &str) -> Option<usize> {
    let end = text.find(')')? + 1;
    let names = text[end..].strip_prefix(" -> (").and_then(|rest| rest.find(')'));
    Some(names.map_or(end, |length| end + " -> (".len() + length + 1))
}

fn parse_items(mut text: &str) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    while !text.trim().is_empty() {
        // An item ends at a comma, but for those between its brackets.
        let end = text.find([',', '[']).unwrap_or(text.len());
        let name = identifier(&text[..end])?;
        let mut dims = Vec::new();
        text = &text[end..];
        if let Some(brackets) = text.strip_prefix('[') {
            let (inside, rest) = brackets.split_once(']')?;
            dims = match inside.trim() {
                "..." => vec!["...".to_owned()],
                inside => inside.split(',').map(identifier).collect::<Option<_>>()?,
            };
            text = rest.trim_start();
        }
        items.push(Item { name, dims });
        text = match text.strip_prefix(',') {
            Some(rest) if !rest.trim().is_empty() => rest,
            None if text.is_empty() => text,
            _ => return None,
        };
    }
    Some(items)
}

fn identifier(text: &str) -> Option<String> {
    let text = text.trim();
    let letters = text.chars().all(|it| it.is_alphanumeric() || it == '_');
    (letters && text.starts_with(|it: char| it.is_alphabetic() || it == '_')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, dims: &[&str]) -> Item {
        Item { name: name.to_owned(), dims: dims.iter().map(|&dim| dim.to_owned()).collect() }
    }

    #[test]
    fn reads_names_and_dimensions() {
        let line = parse(" `f(a, x[m, n],y [ n ], z[...])`: does it.\n More of it.").unwrap();
        assert_eq!(line.name, "f");
        assert_eq!(line.items, [item("a", &[]), item("x", &["m", "n"]), item("y", &["n"]), item("z", &["..."])]);
        assert_eq!(line.doc, "does it.\n More of it.");
    }

    #[test]
    fn marks_and_text_are_optional() {
        let expected = CallLine { name: "noop".to_owned(), items: vec![], results: vec![], doc: String::new() };
        assert_eq!(parse("noop()."), Some(expected));
        assert_eq!(parse("add(x, y): x + y.").unwrap().doc, "x + y.");
        for text in ["add(x[n])", "`add(x[n])`", "`add(x[n])`\n"] {
            assert_eq!(
                (parse(text).unwrap().items, parse(text).unwrap().doc),
                (vec![item("x", &["n"])], String::new())
            );
        }
        assert_eq!(parse("`add(x[n])` \nAdds.").unwrap().doc, "Adds.");
        for text in ["`stats(x[n]) -> (mean, count)`: of x.", "stats(x[n]) -> (mean, count): of x."] {
            let line = parse(text).unwrap();
            assert_eq!((line.results, line.doc.as_str()), (vec!["mean".to_owned(), "count".to_owned()], "of x."));
        }
    }

    #[test]
    fn refuses_what_is_no_call() {
        for text in [
            "",
            "Adds.",
            "add",
            "add(x",
            "add(x) adds.",
            "`add(x)` adds.",
            "add(x,): y",
            "add(,x): y",
            "add(x[]): y",
            "add(x[n): y",
            "add(x[n]z): y",
            "add(x y): z",
            "1(x): y",
            "`add(x): y",
            "add(x[n,]): y",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

//! Long functions, and structs with many fields: each is a sign that a type is missing.
//!
//! The sources are formatted by rustfmt, so an item ends with the first brace in its own column.

use super::Findings;

/// Lines of a function.
const MOST_LINES: usize = 100;
/// Fields of a struct.
const MOST_FIELDS: usize = 25;

/// Items that may be larger, each with the reason.
const ALLOWED: [(&str, &str, &str); 1] = [(
    "crates/xmpp/src/xml/check.rs",
    "scan",
    "the state machine over the bytes of a stream, whose instructions are counted",
)];

/// Checks a source file that is no test.
pub(super) fn check(name: &str, text: &str, found: &mut Findings) {
    let lines: Vec<&str> = text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let Some((kind, item)) = item_of(line) else {
            continue;
        };
        let allowed = |(file, allowed, _): &(&str, &str, &str)| *file == name && *allowed == item;
        if ALLOWED.iter().any(allowed) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let body = lines.iter().skip(start).position(|line| *line == end);
        let body = body.and_then(|count| lines.get(start..=start + count));
        let Some(body) = body.filter(|_| !line.ends_with(';')) else {
            continue;
        };
        let fields = || {
            body.iter()
                .filter(|line| is_field(line, indent + 4))
                .count()
        };
        let (size, most, what) = match kind {
            Kind::Function => (body.len(), MOST_LINES, "lines"),
            Kind::Struct => (fields(), MOST_FIELDS, "fields"),
        };
        if size > most {
            found.error(format!(
                "{name}:{}: {item} has {size} {what}, more than {most}: split it",
                start + 1
            ));
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Function,
    Struct,
}

/// The function or struct whose definition begins in a line.
fn item_of(line: &str) -> Option<(Kind, &str)> {
    let mut words = line.split_whitespace();
    let kind = words.find_map(|word| match word {
        "fn" => Some(Some(Kind::Function)),
        "struct" => Some(Some(Kind::Struct)),
        "const" | "async" | "unsafe" => None,
        word if word.starts_with("pub") || word.ends_with(')') => None,
        _ => Some(None),
    })??;
    let name = words.next()?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
    Some((kind, &name[..end.unwrap_or(name.len())]))
}

fn is_field(line: &str, indent: usize) -> bool {
    let text = line.trim_start();
    let name = text.split_once(": ").map(|(before, _)| before);
    let name = name.and_then(|before| before.split(' ').next_back());
    line.len() - text.len() == indent
        && !text.starts_with("//")
        && name.is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let mut found = Findings::default();
        check("some.rs", text, &mut found);
        found.errors
    }

    #[test]
    fn a_long_function_is_an_error() {
        let function = |lines: usize| {
            let body = "        step();\n".repeat(lines - 2);
            format!("impl X {{\n    pub(crate) async fn long(&self) {{\n{body}    }}\n}}\n")
        };
        assert_eq!(errors(&function(100)), [""; 0]);
        let long = "some.rs:2: long has 101 lines, more than 100: split it";
        assert_eq!(errors(&function(101)), [long]);
    }

    #[test]
    fn a_struct_of_many_fields_is_an_error() {
        let of = |fields: usize| {
            let fields = "    /// One: of them.\n    pub(crate) field: u8,\n".repeat(fields);
            format!("pub struct Many<T> {{\n{fields}}}\n")
        };
        assert_eq!(errors(&of(25)), [""; 0]);
        let many = "some.rs:1: Many has 26 fields, more than 25: split it";
        assert_eq!(errors(&of(26)), [many]);
    }
}

//! How an option describes itself: its type, its documentation, its default.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// The kind of value of a key.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A single value, or a list of single values.
    Leaf(Leaf),
    /// A table of options.
    Section(Vec<Field>),
    /// An array of tables.
    Sections(Vec<Field>),
}

/// A single value.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The type's name in the reference page.
    pub kind: String,
    /// Checks a value; the error is the reason why it does not fit.
    pub check: fn(&Value) -> Result<(), String>,
    /// Whether it is a list (a text with commas is accepted for it outside the file).
    pub list: bool,
}

/// One option of a section.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its key.
    pub key: &'static str,
    /// Its documentation, line by line.
    pub doc: &'static [&'static str],
    /// Its default; `None`: unset.
    pub default: Option<Value>,
    /// The kind of value.
    pub shape: Shape,
}

/// A type that an option or section can have.
pub trait Shaped: DeserializeOwned {
    /// Its description.
    fn shape() -> Shape;
}

/// A section: a struct of options, defined by [`section!`](crate::section).
pub trait Section: Shaped + Default + Serialize {
    /// Its documentation, line by line.
    const DOC: &'static [&'static str];
}

/// The options of a section.
pub fn options<T: Shaped>() -> Vec<Field> {
    match T::shape() {
        Shape::Section(fields) | Shape::Sections(fields) => fields,
        Shape::Leaf(_) => Vec::new(),
    }
}

/// The values of a section as they are written in the file.
pub fn table_of<T: Serialize>(section: &T) -> Table {
    // TOML has types for all values of options.
    Table::try_from(section).unwrap_or_default()
}

/// The description of a single value of type `T`.
pub fn leaf<T: DeserializeOwned>(kind: impl Into<String>) -> Shape {
    Shape::Leaf(Leaf {
        kind: kind.into(),
        check: check::<T>,
        list: false,
    })
}

fn check<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    match value.clone().try_into::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(plain(error.message())),
    }
}

/// Terms of the parser, and the terms of the reference page for them.
const WORDS: [(&str, &str); 8] = [
    ("a boolean", "true or false"),
    ("a sequence", "a list"),
    ("sequence", "list"),
    ("usize", "a whole number"),
    ("u32", "a whole number"),
    ("f64", "a number"),
    ("path string", "a path"),
    (
        "socket address",
        "an address with a port, as in \"127.0.0.1:5222\" or \"[::]:5222\"",
    ),
];

/// A parser's message without the names of its types.
fn plain(message: &str) -> String {
    let found = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|found| found.rsplit_once(", expected ")) else {
        return match message {
            "invalid socket address syntax" => {
                "is no address with a port; write it like \"127.0.0.1:5222\" or \"[::]:5222\""
                    .to_owned()
            }
            other => other.to_owned(),
        };
    };
    let word = |text: &str| {
        let known = WORDS.iter().find(|(theirs, _)| *theirs == text);
        known.map_or(text, |(_, ours)| *ours).to_owned()
    };
    let found = match found.split_once(' ') {
        // `integer `7``, `string "x"`: the value follows its type.
        Some(_) => found.to_owned(),
        None => word(found),
    };
    format!("found {found}, expected {}", word(expected))
}

macro_rules! leaves {
    ($($type:ty: $kind:literal,)*) => {
        $(impl Shaped for $type {
            fn shape() -> Shape {
                leaf::<$type>($kind)
            }
        })*
    };
}

leaves! {
    bool: "boolean",
    String: "string",
    u32: "integer",
    usize: "integer",
    f64: "number",
    PathBuf: "path",
    SocketAddr: "address:port",
}

impl<T: Shaped> Shaped for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }
}

impl<T: Shaped> Shaped for Vec<T> {
    fn shape() -> Shape {
        match T::shape() {
            Shape::Leaf(leaf) => Shape::Leaf(Leaf {
                kind: format!("list of {}", leaf.kind),
                check: check::<Vec<T>>,
                list: true,
            }),
            Shape::Section(fields) | Shape::Sections(fields) => Shape::Sections(fields),
        }
    }
}

/// Defines a section: a struct whose fields carry their documentation and default. The crate that uses it depends on
/// `serde`.
#[macro_export]
macro_rules! section {
    ($(
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr;)*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        $vis struct $name {
            $($(#[doc = $doc])* $vis $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl $crate::shape::Shaped for $name {
            fn shape() -> $crate::shape::Shape {
                let defaults = $crate::shape::table_of(&$name::default());
                $crate::shape::Shape::Section(vec![$($crate::shape::Field {
                    key: stringify!($field),
                    doc: &[$($doc),*],
                    default: defaults.get(stringify!($field)).cloned(),
                    shape: <$type as $crate::shape::Shaped>::shape(),
                },)*])
            }
        }

        impl $crate::shape::Section for $name {
            const DOC: &'static [&'static str] = &[$($about),*];
        }
    )*};
}

/// Defines an option with a few possible values.
macro_rules! choice {
    ($(
        $(#[doc = $about:literal])*
        pub enum $name:ident {
            $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $crate::shape::Shaped for $name {
            fn shape() -> $crate::shape::Shape {
                $crate::shape::leaf::<$name>([$($text),*].join(" | "))
            }
        }
    )*};
}

pub(crate) use choice;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: Shaped>(value: Value) -> String {
        match T::shape() {
            Shape::Leaf(leaf) => (leaf.check)(&value).expect_err("it does not fit"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_name_no_type_of_the_program() {
        let text = || Value::String("x".to_owned());
        let number = || Value::Integer(7);
        for (said, wanted) in [
            (refused::<usize>(text()), "expected a whole number"),
            (refused::<u32>(text()), "expected a whole number"),
            (
                refused::<usize>(Value::Integer(-1)),
                "expected a whole number",
            ),
            (refused::<bool>(text()), "expected true or false"),
            (refused::<Vec<String>>(text()), "expected a list"),
            (refused::<String>(number()), "expected a string"),
            (refused::<PathBuf>(number()), "expected a path"),
            (
                refused::<SocketAddr>(number()),
                "expected an address with a port",
            ),
            (refused::<SocketAddr>(text()), "127.0.0.1:5222"),
            (refused::<f64>(text()), "expected a number"),
            (refused::<Vec<SocketAddr>>(text()), "expected a list"),
        ] {
            assert!(said.contains(wanted), "{said:?} does not say {wanted:?}");
            for inner in ["usize", "u32", "f64", "sequence", "boolean", "invalid"] {
                assert!(!said.contains(inner), "{said:?} names {inner:?}");
            }
        }
    }
}

//! A small element tree with resolved namespaces.

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memchr;

use super::split::tag_end;

const MAX_DEPTH: usize = 200;

/// An element: local name, namespace, attributes as written, children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Namespace name, resolved.
    pub ns: String,
    /// Attributes with unescaped values; prefixed ones keep their prefix. No declarations.
    pub attributes: Vec<(String, String)>,
    /// Child elements.
    pub children: Vec<Element>,
    /// All text directly inside, unescaped.
    pub text: String,
}

impl Element {
    /// Parses one complete element; `default_ns` applies if no namespace is declared.
    ///
    /// # Errors
    /// When the bytes are not one well-formed element.
    pub fn parse(bytes: &[u8], default_ns: &str) -> Result<Self> {
        let text = std::str::from_utf8(bytes).context("an element is not UTF-8")?;
        let mut scopes = Scopes(vec![
            (String::new(), default_ns.to_owned()),
            (
                "stream".to_owned(),
                "http://etherx.jabber.org/streams".to_owned(),
            ),
            (
                "xml".to_owned(),
                "http://www.w3.org/XML/1998/namespace".to_owned(),
            ),
        ]);
        let mut parser = Parser { rest: text };
        let root = parser.element(&mut scopes, 0)?;
        ensure!(parser.rest.trim().is_empty(), "text after an element");
        Ok(root)
    }

    /// An attribute's value.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first child of this name and namespace.
    #[must_use]
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.is(name, ns))
    }

    /// Whether the element has this name and namespace.
    #[must_use]
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }
}

/// Escapes text for an attribute value or for content.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(';').context("an entity without its end")? + at;
        match &rest[at + 1..end] {
            "amp" => out.push('&'),
            "lt" => out.push('<'),
            "gt" => out.push('>'),
            "apos" => out.push('\''),
            "quot" => out.push('"'),
            reference => {
                let code = match reference.strip_prefix("#x") {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => reference.strip_prefix('#').and_then(|n| n.parse().ok()),
                };
                let c = code.and_then(char::from_u32);
                out.push(c.with_context(|| format!("unknown entity &{reference};"))?);
            }
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Declared prefixes, the innermost last.
struct Scopes(Vec<(String, String)>);

impl Scopes {
    fn resolve(&self, prefix: &str) -> Result<String> {
        let found = self.0.iter().rev().find(|(known, _)| known == prefix);
        found
            .map(|(_, ns)| ns.clone())
            .with_context(|| format!("undeclared prefix '{prefix}'"))
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn element(&mut self, scopes: &mut Scopes, depth: usize) -> Result<Element> {
        ensure!(depth < MAX_DEPTH, "elements are nested too deeply");
        ensure!(
            self.rest.starts_with('<'),
            "an element does not begin with '<'"
        );
        let end = tag_end(self.rest.as_bytes()).context("a start tag without its end")?;
        let mut tag = &self.rest[1..end];
        self.rest = &self.rest[end + 1..];
        let empty = tag.ends_with('/');
        if empty {
            tag = &tag[..tag.len() - 1];
        }
        let outer = scopes.0.len();
        let name_end = tag
            .find(|c: char| c.is_ascii_whitespace())
            .unwrap_or(tag.len());
        let qualified = &tag[..name_end];
        ensure!(
            !qualified.is_empty() && !qualified.starts_with('/'),
            "an element without a name"
        );
        let mut element = Element::default();
        attributes(&tag[name_end..], |name, value| {
            let value = unescape(value)?;
            if name == "xmlns" {
                scopes.0.push((String::new(), value));
            } else if let Some(prefix) = name.strip_prefix("xmlns:") {
                scopes.0.push((prefix.to_owned(), value));
            } else {
                element.attributes.push((name.to_owned(), value));
            }
            Ok(())
        })?;
        let (prefix, local) = qualified.split_once(':').unwrap_or(("", qualified));
        element.name = local.to_owned();
        element.ns = scopes.resolve(prefix)?;
        if !empty {
            self.content(&mut element, qualified, scopes, depth)?;
        }
        scopes.0.truncate(outer);
        Ok(element)
    }

    fn content(
        &mut self,
        element: &mut Element,
        qualified: &str,
        scopes: &mut Scopes,
        depth: usize,
    ) -> Result<()> {
        loop {
            let at = memchr(b'<', self.rest.as_bytes()).context("an element without its end")?;
            if at > 0 {
                element.text.push_str(&unescape(&self.rest[..at])?);
                self.rest = &self.rest[at..];
            }
            if let Some(cdata) = self.rest.strip_prefix("<![CDATA[") {
                let end = cdata
                    .find("]]>")
                    .context("a CDATA section without its end")?;
                element.text.push_str(&cdata[..end]);
                self.rest = &cdata[end + 3..];
            } else if let Some(tag) = self.rest.strip_prefix("</") {
                let end = tag.find('>').context("an end tag without its end")?;
                ensure!(
                    tag[..end].trim_end() == qualified,
                    "'{qualified}' ends as another"
                );
                self.rest = &tag[end + 1..];
                return Ok(());
            } else if self.rest.starts_with("<!") || self.rest.starts_with("<?") {
                bail!("a comment or processing instruction inside an element");
            } else {
                element.children.push(self.element(scopes, depth + 1)?);
            }
        }
    }
}

/// The attributes of a complete start tag such as `<stream:stream id='7'>`.
///
/// # Errors
/// When the tag is not well-formed.
pub fn tag_attributes(tag: &[u8]) -> Result<Vec<(String, String)>> {
    let tag = std::str::from_utf8(tag)?
        .trim_start_matches('<')
        .trim_end_matches(['>', '/']);
    let start = tag
        .find(|c: char| c.is_ascii_whitespace())
        .unwrap_or(tag.len());
    let mut found = Vec::new();
    attributes(&tag[start..], |name, value| {
        found.push((name.to_owned(), unescape(value)?));
        Ok(())
    })?;
    Ok(found)
}

fn attributes(text: &str, mut each: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .context("an attribute without a value")?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quote = quote.context("an attribute value without quotes")?;
        let (value, next) = after[1..]
            .split_once(quote)
            .context("an attribute value without its end")?;
        each(name.trim(), value)?;
        rest = next.trim_start();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn namespaces_attributes_and_text_are_resolved() {
        let xml = b"<message to = 'a&amp;b' xml:lang=\"en\"><p:x xmlns:p='urn:p' k='&#x41;&#66;'>\
            <y/></p:x><body>1 &lt; 2<![CDATA[ & <3>]]></body><z xmlns='urn:z'><w/></z></message>";
        let message = Element::parse(xml, "jabber:client").unwrap();
        assert!(message.is("message", "jabber:client"));
        assert_eq!(message.attribute("to"), Some("a&b"));
        assert_eq!(message.attribute("xml:lang"), Some("en"));
        let x = message.child("x", "urn:p").unwrap();
        assert_eq!(x.attribute("k"), Some("AB"));
        assert!(x.child("y", "jabber:client").is_some());
        assert_eq!(
            message.child("body", "jabber:client").unwrap().text,
            "1 < 2 & <3>"
        );
        assert!(
            message
                .child("z", "urn:z")
                .unwrap()
                .child("w", "urn:z")
                .is_some()
        );
    }

    #[test]
    fn what_is_not_one_element_is_refused() {
        let deep = "<a>".repeat(300);
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<p:a/>",
            "<a b/>",
            "<a b=c/>",
            "<a>&x;</a>",
            "<a><!-- --></a>",
            "</a>",
            "< a/>",
            deep.as_str(),
        ] {
            assert!(Element::parse(bad.as_bytes(), "").is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn escaped_text_comes_back(text in "[ -~äß€😀]{0,40}") {
            let xml = format!("<a b='{0}'>{0}</a>", escape(&text));
            let element = Element::parse(xml.as_bytes(), "").unwrap();
            proptest::prop_assert_eq!(element.attribute("b"), Some(text.as_str()));
            proptest::prop_assert_eq!(element.text, text);
        }
    }
}

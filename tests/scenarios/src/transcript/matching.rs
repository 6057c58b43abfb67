//! Patterns: elements with placeholders.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

/// The values of placeholders.
pub type Bindings = HashMap<String, String>;

/// Fills the placeholders of a text to send; all values must be known.
pub(super) fn fill(text: &str, bindings: &Bindings) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').context("a { has no }")?;
        let value = bindings
            .get(name)
            .with_context(|| format!("{{{name}}} is not known yet"))?;
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Checks that the element fits the pattern; the error is the reason why not. New values are noted
/// only if it fits.
pub fn matches(
    pattern: &Element,
    element: &Element,
    own: &str,
    bindings: &mut Bindings,
) -> Result<()> {
    let mut tried = bindings.clone();
    compare(pattern, element, Some(own), &mut tried)?;
    *bindings = tried;
    Ok(())
}

fn compare(
    pattern: &Element,
    element: &Element,
    own: Option<&str>,
    bindings: &mut Bindings,
) -> Result<()> {
    let name = &pattern.name;
    if pattern.name != element.name || pattern.ns != element.ns {
        bail!(
            "expected <{name} xmlns='{}'> and got <{} xmlns='{}'>",
            pattern.ns,
            element.name,
            element.ns
        );
    }
    for (key, wanted) in &pattern.attrs {
        let Some(found) = element.attr(key) else {
            bail!("<{name}> lacks {key}={wanted:?}");
        };
        if !value(wanted, found, bindings) {
            bail!("<{name}> has {key}={found:?} instead of {wanted:?}");
        }
    }
    for (key, found) in &element.attrs {
        let implied = key == "xml:lang" || (key == "to" && own.is_some_and(|own| own == found));
        if pattern.attr(key).is_none() && !implied {
            bail!("<{name}> has {key}={found:?}, which was not expected");
        }
    }
    let text = pattern.text();
    let open = text.contains("{...}");
    let wanted = text.replace("{...}", "");
    // White space between the elements of a pattern is ignored.
    let (wanted, found) = (wanted.trim(), element.text());
    let ignored = open && wanted.is_empty();
    if !ignored && !value(wanted, found.trim(), bindings) {
        bail!("<{name}> holds {found:?} instead of {wanted:?}");
    }
    let mut left: Vec<&Element> = element.children().collect();
    for child in pattern.children() {
        let mut reasons = Vec::new();
        let at = left.iter().position(|candidate| {
            let mut tried = bindings.clone();
            match compare(child, candidate, None, &mut tried) {
                Ok(()) => {
                    *bindings = tried;
                    true
                }
                Err(reason) => {
                    reasons.push(reason.to_string());
                    false
                }
            }
        });
        match at {
            Some(at) => {
                left.remove(at);
            }
            None => bail!("<{name}> lacks <{}>: {}", child.name, reasons.join("; ")),
        }
    }
    match left.first() {
        Some(extra) if !open => bail!(
            "<{name}> holds {}, which was not expected",
            String::from_utf8_lossy(&extra.to_bytes(ns::CLIENT))
        ),
        _ => Ok(()),
    }
}

/// Whether a value fits a pattern with placeholders.
fn value(pattern: &str, found: &str, bindings: &mut Bindings) -> bool {
    let Some((before, after)) = pattern.split_once('{') else {
        return pattern == found;
    };
    let Some((name, after)) = after.split_once('}') else {
        return pattern == found;
    };
    let Some(rest) = found.strip_prefix(before) else {
        return false;
    };
    if let Some(known) = bindings.get(name).filter(|_| name != "*") {
        let known = known.clone();
        return rest
            .strip_prefix(&*known)
            .is_some_and(|rest| value(after, rest, bindings));
    }
    // The text after the placeholder marks the end of its value.
    let end = match after.split_once('{').map_or(after, |(next, _)| next) {
        "" => rest.len(),
        next => match rest.find(next) {
            Some(end) => end,
            None => return false,
        },
    };
    let (taken, rest) = rest.split_at(end);
    if taken.is_empty() && name != "*" {
        return false;
    }
    if name != "*" {
        bindings.insert(name.to_owned(), taken.to_owned());
    }
    value(after, rest, bindings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(pattern: &str, xml: &str, bindings: &mut Bindings) -> Result<()> {
        let parse = |text: &str| Element::parse(text.as_bytes()).unwrap();
        matches(&parse(pattern), &parse(xml), "me@x/y", bindings)
    }

    #[test]
    fn places_are_bound_once() {
        let mut bindings = Bindings::new();
        check("<m id='{a}'/>", "<m id='7' to='me@x/y'/>", &mut bindings).unwrap();
        assert_eq!(bindings["a"], "7");
        check("<m id='x{a}y'/>", "<m id='x7y'/>", &mut bindings).unwrap();
        assert!(check("<m id='{a}'/>", "<m id='8'/>", &mut bindings).is_err());
        check("<m>{*}</m>", "<m>anything</m>", &mut bindings).unwrap();
        assert!(check("<m id='{new}'/>", "<m id=''/>", &mut bindings).is_err());
        assert_eq!(bindings.len(), 1);
    }

    #[test]
    fn nothing_may_be_too_much_or_missing() {
        let mut none = Bindings::new();
        for (pattern, xml) in [
            ("<m/>", "<m id='1'/>"),
            ("<m id='1'/>", "<m/>"),
            ("<m/>", "<m><b/></m>"),
            ("<m><b/></m>", "<m/>"),
            ("<m/>", "<m>text</m>"),
            ("<m/>", "<m to='other@x'/>"),
            ("<m/>", "<m xmlns='n'/>"),
            ("<m><b/><b/></m>", "<m><b/></m>"),
        ] {
            assert!(check(pattern, xml, &mut none).is_err(), "{pattern} {xml}");
        }
        check("<m> <b/> <c/>{...}</m>", "<m><c/><d/><b/></m>", &mut none).unwrap();
    }

    #[test]
    fn text_is_filled() {
        let bindings = Bindings::from([("a".to_owned(), "7".to_owned())]);
        assert_eq!(fill("x{a}y{a}", &bindings).unwrap(), "x7y7");
        assert!(fill("{b}", &bindings).is_err());
    }
}

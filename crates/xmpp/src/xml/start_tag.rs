//! The checker's handling of a complete start tag: Namespaces in XML §3, §5 and §6.

use super::XmlError;
use super::check::{Checker, Open};
use super::scope::Ns;
use super::token::{OpenTag, Sink};
use crate::stream::StreamCondition;

impl Checker {
    /// Checks namespaces and duplicates of a complete start tag, and passes it on to the sink.
    pub(super) fn open(
        &mut self,
        unit: &[u8],
        end: usize,
        empty: bool,
        sink: &mut impl Sink,
    ) -> Result<(), XmlError> {
        let scope = self.scope.len();
        for attr in &self.attrs {
            let Some(prefix) = attr.declares(unit) else {
                continue;
            };
            if self.scope.len() >= self.limits.namespaces {
                return Err(XmlError::limit("too many namespace declarations"));
            }
            self.scope
                .declare_raw(prefix, &unit[attr.start..attr.end])?;
        }
        let unbound = || XmlError::syntax("a prefix is not declared");
        let name = self.name;
        let (ns, mut used) = match name.prefix(unit) {
            None => (self.scope.default_ns(), 0),
            Some(b"xml") => {
                let text = "the prefix xml on an element";
                return Err(XmlError::new(StreamCondition::BadNamespacePrefix, text));
            }
            Some(prefix) => {
                let ns = self.scope.resolve(prefix).ok_or_else(unbound)?;
                (ns, ns.bit())
            }
        };
        for attr in self.attrs.iter_mut().filter(|attr| !attr.declaration) {
            if let Some(prefix) = attr.name.prefix(unit) {
                attr.ns = self.scope.resolve(prefix).ok_or_else(unbound)?;
                used |= attr.ns.bit();
            }
        }
        self.check_duplicates(unit)?;
        let start = self.tag;
        let (attrs, depth) = (self.attrs.as_slice(), self.stack.len());
        let scoped = &self.scope;
        sink.open(&OpenTag {
            unit,
            start,
            end,
            name,
            ns,
            attrs,
            used,
            depth,
            scope: scoped,
        });
        if !empty && !self.header {
            self.stack.push(Open {
                start: name.start,
                end: name.end,
                scope,
            });
        }
        Ok(())
    }

    /// Checks that no two attributes have the same name, written or expanded. Their number is
    /// limited, so the comparison of all pairs is bounded.
    fn check_duplicates(&self, unit: &[u8]) -> Result<(), XmlError> {
        for (n, a) in self.attrs.iter().enumerate() {
            for b in &self.attrs[..n] {
                let same = a.name.raw(unit) == b.name.raw(unit)
                    || (a.ns != Ns::None
                        && b.ns != Ns::None
                        && a.name.local(unit) == b.name.local(unit)
                        && self.scope.uri(a.ns) == self.scope.uri(b.ns));
                if same {
                    return Err(XmlError::syntax("an attribute appears twice"));
                }
            }
        }
        Ok(())
    }
}

//! The reason why bytes were refused.

use crate::stream::StreamCondition;

/// Input was refused. The condition is that of the stream error (RFC 6120 §4.9.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", condition.name())]
pub struct XmlError {
    /// The stream error condition.
    pub condition: StreamCondition,
    /// The reason, suitable as the error's text.
    pub text: &'static str,
}

/// The same for a stream, which cannot continue after it.
pub type StreamFault = XmlError;

impl XmlError {
    /// A fault with this condition.
    pub fn new(condition: StreamCondition, text: &'static str) -> XmlError {
        XmlError { condition, text }
    }

    pub(crate) fn syntax(text: &'static str) -> XmlError {
        XmlError::new(StreamCondition::NotWellFormed, text)
    }

    pub(crate) fn limit(text: &'static str) -> XmlError {
        XmlError::new(StreamCondition::PolicyViolation, text)
    }

    pub(crate) fn restricted(text: &'static str) -> XmlError {
        XmlError::new(StreamCondition::RestrictedXml, text)
    }

    pub(crate) fn encoding(text: &'static str) -> XmlError {
        XmlError::new(StreamCondition::UnsupportedEncoding, text)
    }
}

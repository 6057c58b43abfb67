//! XMPP over WebSocket (RFC 7395 §3.3): each text message is one complete element.

use super::check::Checker;
use super::event::of_unit;
use super::outline::Outline;
use super::token::Progress;
use super::{Limits, StreamEvent, StreamFault, StreamHeader, XmlError, prolog};
use crate::ns;
use crate::stream::StreamCondition;

/// Parses the messages of one WebSocket connection.
#[derive(Clone, Debug)]
pub struct WsParser {
    checker: Checker,
    outline: Outline,
    lang: String,
    open: bool,
    fault: Option<StreamFault>,
}

impl WsParser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> WsParser {
        WsParser {
            checker: Checker::new(limits),
            outline: Outline::default(),
            lang: String::new(),
            open: false,
            fault: None,
        }
    }

    /// Changes the limits for messages that are not parsed yet.
    pub fn set_limits(&mut self, limits: Limits) {
        self.checker.set_limits(limits);
    }

    /// Expects a new `<open/>`, as after SASL (RFC 7395 §3.7).
    pub fn reset(&mut self) {
        self.lang.clear();
        self.open = false;
        self.fault = None;
    }

    /// The event of one text message. After a fault only that fault is returned.
    pub fn frame(&mut self, message: &[u8]) -> Result<StreamEvent, StreamFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.read(message)
            .inspect_err(|fault| self.fault = Some(fault.clone()))
    }

    fn read(&mut self, message: &[u8]) -> Result<StreamEvent, StreamFault> {
        let mut unit = message;
        if message.starts_with(b"<?") {
            // Not recommended (§3.3.3), but allowed.
            let len = prolog::declaration(message)?
                .ok_or_else(|| XmlError::syntax("the xml declaration is not complete"))?;
            unit = &message[len..];
            unit = &unit[super::chars::space_end(unit, 0)..];
        }
        self.checker.scope.truncate(0);
        self.checker.restart(false);
        match self.checker.run(unit, &mut self.outline)? {
            Progress::Done(end) if end == unit.len() => {}
            Progress::Done(_) => return Err(XmlError::syntax("something follows the element")),
            Progress::More => return Err(XmlError::syntax("the element is not complete")),
        }
        match of_unit(&mut self.outline, &mut self.checker, unit, &self.lang)? {
            StreamEvent::Nonza(element) if element.ns == ns::FRAMING => {
                match element.name.as_str() {
                    "open" => {
                        let header = StreamHeader::read(&element)?;
                        self.lang.clone_from(&header.lang);
                        self.open = true;
                        Ok(StreamEvent::Open(header))
                    }
                    "close" => Ok(StreamEvent::Close),
                    _ => Err(XmlError::new(
                        StreamCondition::BadFormat,
                        "the framing namespace has only open and close",
                    )),
                }
            }
            // §3.3.2: a stream header must be qualified by the framing namespace.
            StreamEvent::Nonza(element) if matches!(element.name.as_str(), "open" | "close") => {
                Err(XmlError::new(
                    StreamCondition::InvalidNamespace,
                    "the namespace of the stream header must be the framing namespace",
                ))
            }
            _ if !self.open => Err(XmlError::new(
                StreamCondition::BadFormat,
                "the first message must be <open/>",
            )),
            event => Ok(event),
        }
    }
}

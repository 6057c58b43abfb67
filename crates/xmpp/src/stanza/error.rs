//! Stanza errors, RFC 6120 §8.3.

use crate::ns;
use crate::xml::Element;

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $kind:ident;)*) => {
        /// The reason why a stanza was not processed (RFC 6120 §8.3.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Condition {
            $($(#[$doc])* $variant,)*
        }

        impl Condition {
            /// Every condition, in the order of the RFC.
            pub const ALL: &'static [Condition] = &[$(Condition::$variant,)*];

            /// The element's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Condition::$variant => $name,)*
                }
            }

            /// The type that the RFC gives to the condition.
            pub fn default_type(self) -> ErrorType {
                match self {
                    $(Condition::$variant => ErrorType::$kind,)*
                }
            }

            /// The condition with this element name.
            pub fn parse(name: &str) -> Option<Condition> {
                match name {
                    $($name => Some(Condition::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

conditions! {
    /// Malformed XML or a value that cannot be processed.
    BadRequest = "bad-request", Modify;
    /// An object with this name or address exists already.
    Conflict = "conflict", Cancel;
    /// Not implemented by the recipient or the server.
    FeatureNotImplemented = "feature-not-implemented", Cancel;
    /// The sender lacks the permission.
    Forbidden = "forbidden", Auth;
    /// The recipient is no longer at this address.
    Gone = "gone", Cancel;
    /// An internal error.
    InternalServerError = "internal-server-error", Cancel;
    /// The addressed JID or item does not exist.
    ItemNotFound = "item-not-found", Cancel;
    /// An address violates the rules for JIDs.
    JidMalformed = "jid-malformed", Modify;
    /// The request does not meet the recipient's criteria.
    NotAcceptable = "not-acceptable", Modify;
    /// No entity may do this.
    NotAllowed = "not-allowed", Cancel;
    /// Credentials are needed first.
    NotAuthorized = "not-authorized", Auth;
    /// A local rule was violated.
    PolicyViolation = "policy-violation", Modify;
    /// The recipient exists, but is unavailable for now.
    RecipientUnavailable = "recipient-unavailable", Wait;
    /// Requests must go to another address.
    Redirect = "redirect", Modify;
    /// The sender must register first.
    RegistrationRequired = "registration-required", Auth;
    /// The remote server cannot be found.
    RemoteServerNotFound = "remote-server-not-found", Cancel;
    /// The remote server did not answer.
    RemoteServerTimeout = "remote-server-timeout", Wait;
    /// No resources to serve the request now.
    ResourceConstraint = "resource-constraint", Wait;
    /// The service is not provided.
    ServiceUnavailable = "service-unavailable", Cancel;
    /// The sender must subscribe first.
    SubscriptionRequired = "subscription-required", Auth;
    /// None of the others; with an application-specific condition.
    UndefinedCondition = "undefined-condition", Cancel;
    /// Understood, but not expected at this point.
    UnexpectedRequest = "unexpected-request", Wait;
}

/// The possible reaction of the sender to an error (RFC 6120 §8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// Retry after providing credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// Proceed; it was only a warning.
    Continue,
    /// Retry after changing the data.
    Modify,
    /// Retry after waiting.
    Wait,
}

impl ErrorType {
    /// The attribute's value.
    pub fn name(self) -> &'static str {
        match self {
            ErrorType::Auth => "auth",
            ErrorType::Cancel => "cancel",
            ErrorType::Continue => "continue",
            ErrorType::Modify => "modify",
            ErrorType::Wait => "wait",
        }
    }

    /// The type with this name.
    pub fn parse(name: &str) -> Option<ErrorType> {
        Some(match name {
            "auth" => ErrorType::Auth,
            "cancel" => ErrorType::Cancel,
            "continue" => ErrorType::Continue,
            "modify" => ErrorType::Modify,
            "wait" => ErrorType::Wait,
            _ => return None,
        })
    }
}

/// The `<error/>` child of an error stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StanzaError {
    /// The possible reaction of the sender.
    pub type_: ErrorType,
    /// The defined condition.
    pub condition: Condition,
    /// Content of the condition element: the new address of `gone` and `redirect`.
    pub address: Option<String>,
    /// Descriptive text.
    pub text: Option<String>,
    /// An application-specific condition.
    pub app: Option<Element>,
}

impl StanzaError {
    /// An error with the type that the RFC gives to the condition.
    pub fn new(condition: Condition) -> StanzaError {
        StanzaError {
            type_: condition.default_type(),
            condition,
            address: None,
            text: None,
            app: None,
        }
    }

    /// The same error of another type.
    #[must_use]
    pub fn with_type(mut self, type_: ErrorType) -> StanzaError {
        self.type_ = type_;
        self
    }

    /// The same error with a text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> StanzaError {
        self.text = Some(text.into());
        self
    }

    /// The same error with an application-specific condition.
    #[must_use]
    pub fn with_app(mut self, app: Element) -> StanzaError {
        self.app = Some(app);
        self
    }

    /// The `<error xmlns='jabber:client'/>` element.
    pub fn to_element(&self) -> Element {
        let mut condition = Element::new(self.condition.name(), ns::STANZA_ERRORS);
        if let Some(address) = &self.address {
            condition.push_text(address.clone());
        }
        let mut error = Element::new("error", ns::CLIENT)
            .with_attr("type", self.type_.name())
            .with_child(condition);
        if let Some(text) = &self.text {
            let text = Element::new("text", ns::STANZA_ERRORS)
                .with_attr("xml:lang", "en")
                .with_text(text.as_str());
            error.push(text);
        }
        if let Some(app) = &self.app {
            error.push(app.clone());
        }
        error
    }

    /// Parses an `<error/>`. An unknown or missing condition becomes `undefined-condition`, an
    /// unknown type that of the condition: a malformed error of a peer is still an error.
    pub fn from_element(error: &Element) -> StanzaError {
        let mut condition = None;
        let mut address = None;
        let mut text = None;
        let mut app = None;
        for child in error.children() {
            if child.ns != ns::STANZA_ERRORS {
                app = app.or_else(|| Some(child.clone()));
            } else if child.name == "text" {
                text = text.or_else(|| Some(child.text()));
            } else if condition.is_none() {
                condition = Condition::parse(&child.name);
                address = Some(child.text()).filter(|content| !content.is_empty());
            }
        }
        let condition = condition.unwrap_or(Condition::UndefinedCondition);
        let type_ = error.attr("type").and_then(ErrorType::parse);
        StanzaError {
            type_: type_.unwrap_or(condition.default_type()),
            condition,
            address,
            text,
            app,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_have_distinct_names_that_parse() {
        for &condition in Condition::ALL {
            assert_eq!(Condition::parse(condition.name()), Some(condition));
        }
        assert_eq!(Condition::ALL.len(), 22);
        assert_eq!(Condition::parse("text"), None);
    }

    #[test]
    fn an_error_survives_its_element() {
        let mut error = StanzaError::new(Condition::Gone)
            .with_type(ErrorType::Modify)
            .with_text("moved <away>")
            .with_app(Element::new("x", "urn:app"));
        error.address = Some("xmpp:a@b".into());
        let bytes = error.to_element().to_bytes(ns::CLIENT);
        let read = Element::parse(&bytes).map(|element| StanzaError::from_element(&element));
        assert_eq!(read, Ok(error));
    }

    #[test]
    fn a_sloppy_error_is_undefined() {
        let error = StanzaError::from_element(&Element::new("error", ns::CLIENT));
        assert_eq!(error, StanzaError::new(Condition::UndefinedCondition));
    }
}

//! Registration: one handler for an IQ, ordered handlers for a message.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use super::{Effect, IqContext, MessageContext, Point, Stage};

/// Why a filter stops a stanza.
#[derive(Debug)]
pub struct Bounce {
    /// Stanza error for the sender; `None` drops it silently (only where a XEP says so).
    pub condition: Option<Condition>,
    /// Human-readable reason.
    pub text: Option<&'static str>,
}

/// Filters see and may change a message, and may stop it. What a room says is shared by its
/// receivers: a filter makes a copy of its own only where it changes something.
pub(crate) type Filter = fn(&MessageContext<'_>, &mut Cow<'_, Stanza>) -> Result<(), Bounce>;
/// Whether a handler may have to do with a message, whoever gets it. Asked once for a message that
/// many get: the handler is passed by for all of them if not.
pub(crate) type Concerns = fn(&Stanza) -> bool;
/// Observers see a message and ask for effects.
pub(crate) type Observer = fn(&MessageContext<'_>, &Stanza, &mut Vec<Effect>);
/// IQ handlers answer: the payload is the IQ's child.
pub(crate) type IqHandler = fn(&IqContext<'_>, &Stanza, &Element) -> Vec<Effect>;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum IqTarget {
    /// A virtual host.
    Host,
    /// The asker's own account.
    Account,
    /// Another user's account.
    OtherAccount,
    /// A MUC service.
    MucService,
    /// A room.
    Room,
}

/// (target, is it a set, namespace, name)
pub type IqKey = (IqTarget, bool, &'static str, &'static str);

/// A handler of messages.
pub(crate) struct Registered<H> {
    pub(crate) point: Point,
    pub(crate) stage: Stage,
    pub(crate) module: &'static str,
    pub(crate) concerns: Concerns,
    pub(crate) handler: H,
}

/// Collects what modules register.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) filters: Vec<Registered<Filter>>,
    pub(crate) observers: Vec<Registered<Observer>>,
    pub(crate) iqs: HashMap<IqKey, (&'static str, IqHandler)>,
    /// Those of them whose namespace is not announced.
    pub(crate) in_part: HashSet<IqKey>,
}

/// Handed to a module.
pub struct Registrar<'a> {
    pub(crate) module: &'static str,
    pub(crate) collected: &'a mut Collected,
}

impl Registrar<'_> {
    /// Registers a filter of the messages that it `concerns`.
    ///
    /// # Panics
    /// At start, when the stage is not one of the first two: a defect of the module.
    pub fn filter(&mut self, point: Point, stage: Stage, concerns: Concerns, filter: Filter) {
        assert!(
            stage <= Stage::Policy,
            "module {}: filters run before Archive",
            self.module
        );
        self.collected.filters.push(Registered {
            point,
            stage,
            module: self.module,
            concerns,
            handler: filter,
        });
    }

    /// Registers an observer of the messages that it `concerns`.
    pub fn observer(&mut self, point: Point, stage: Stage, concerns: Concerns, observer: Observer) {
        self.collected.observers.push(Registered {
            point,
            stage,
            module: self.module,
            concerns,
            handler: observer,
        });
    }

    /// Registers the handler of an IQ, and returns what names it.
    ///
    /// # Panics
    /// At start, when another module has it: a defect of the list of modules.
    pub fn iq(
        &mut self,
        target: IqTarget,
        set: bool,
        ns: &'static str,
        name: &'static str,
        handler: IqHandler,
    ) -> IqKey {
        let key = (target, set, ns, name);
        let before = self.collected.iqs.insert(key, (self.module, handler));
        assert!(
            before.is_none(),
            "modules {} and {} both handle {ns} {name}",
            self.module,
            before.map_or("", |b| b.0)
        );
        key
    }

    /// The protocol of that IQ is not all here: service discovery does not tell of it.
    pub fn in_part(&mut self, iq: IqKey) {
        self.collected.in_part.insert(iq);
    }
}

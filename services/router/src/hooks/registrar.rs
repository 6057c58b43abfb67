//! Registration: one handler for an IQ, ordered handlers for a message.

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

/// Filters see and may change a message, and may stop it.
pub(crate) type Filter = fn(&MessageContext<'_>, &mut Stanza) -> Result<(), Bounce>;
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

/// Collects what modules register.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) filters: Vec<(Point, Stage, &'static str, Filter)>,
    pub(crate) observers: Vec<(Point, Stage, &'static str, Observer)>,
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
    /// Registers a filter.
    ///
    /// # Panics
    /// At start, when the stage is not one of the first two: a defect of the module.
    pub fn filter(&mut self, point: Point, stage: Stage, filter: Filter) {
        assert!(
            stage <= Stage::Policy,
            "module {}: filters run before Archive",
            self.module
        );
        self.collected
            .filters
            .push((point, stage, self.module, filter));
    }

    /// Registers an observer.
    pub fn observer(&mut self, point: Point, stage: Stage, observer: Observer) {
        self.collected
            .observers
            .push((point, stage, self.module, observer));
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

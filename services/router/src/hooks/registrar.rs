//! Registration: one handler for an IQ, ordered handlers for a message.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sestina_config::modules::{Settings, SettingsValue};
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::StanzaError;
use sestina_xmpp::xml::Element;

use super::{
    Action, DataType, EntityData, IqContext, Loaded, MessageContext, Point, RoomHandlers, Stage,
    StanzaContext,
};

/// How a filter stops a stanza.
#[derive(Debug)]
pub struct Bounce(pub(crate) Option<Box<StanzaError>>);

impl Bounce {
    /// The sender gets this error, unless the stanza is an error itself.
    pub fn with(error: StanzaError) -> Bounce {
        Bounce(Some(Box::new(error)))
    }

    /// The stanza is dropped without an answer, where a specification says so.
    pub fn silent() -> Bounce {
        Bounce(None)
    }
}

/// Filters see and may change a message, and may stop it. What a room says is shared by its
/// receivers: a filter makes a copy of its own only where it changes something.
pub(crate) type Filter =
    Box<dyn Fn(&MessageContext<'_>, &mut Cow<'_, Stanza>) -> Result<(), Bounce> + Send + Sync>;
/// Whether a handler may have to do with a message, whichever session gets it. Asked once for a message that
/// many get: the handler is passed by for all of them if not.
pub(crate) type Concerns = fn(&Stanza) -> bool;
/// Filters of stanzas of every kind see the stanza and the resident data of the user. They may stop the stanza.
pub(crate) type StanzaFilter =
    Box<dyn Fn(&StanzaContext<'_>, &Loaded, &Stanza) -> Result<(), Bounce> + Send + Sync>;
/// Observers see a message and ask for actions.
pub(crate) type Observer =
    Box<dyn Fn(&MessageContext<'_>, &Stanza, &mut Vec<Action>) + Send + Sync>;
/// IQ handlers answer: the payload is the IQ's child.
pub(crate) type IqHandler =
    Box<dyn Fn(&IqContext<'_>, &Stanza, &Element) -> Vec<Action> + Send + Sync>;

/// The kind of entity that an IQ is for.
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
    /// With the point, stage and module of each.
    pub(crate) stanza_filters: Vec<(Point, Stage, &'static str, StanzaFilter)>,
    /// The data that these need.
    pub(crate) residents: Vec<DataType>,
    pub(crate) iqs: HashMap<IqKey, (&'static str, IqHandler)>,
    /// The data that they need.
    pub(crate) needs: HashMap<IqKey, Vec<DataType>>,
    /// Those of them whose namespace is not announced.
    pub(crate) in_part: HashSet<IqKey>,
    /// The handlers of rooms.
    pub(crate) rooms: RoomHandlers,
}

/// Handed to a module.
pub struct Registrar<'a> {
    pub(crate) module: &'static str,
    /// If the module declares any.
    pub(crate) settings: Option<SettingsValue>,
    pub(crate) collected: &'a mut Collected,
}

impl Registrar<'_> {
    /// The settings of the module at the domains of this pipeline. A handler that needs them takes them with it.
    ///
    /// # Panics
    /// At start, when the module does not declare them ([`Module::settings`](super::Module::settings)): a defect of the
    /// module.
    pub fn settings<T: Settings>(&self) -> Arc<T> {
        let settings = self.settings.as_ref().and_then(SettingsValue::get);
        settings.unwrap_or_else(|| panic!("module {} declares no such settings", self.module))
    }

    /// Registers a filter of the messages that it `concerns`.
    ///
    /// # Panics
    /// At start, when the stage is not one of the first two: a defect of the module.
    pub fn filter(
        &mut self,
        point: Point,
        stage: Stage,
        concerns: Concerns,
        filter: impl Fn(&MessageContext<'_>, &mut Cow<'_, Stanza>) -> Result<(), Bounce>
        + Send
        + Sync
        + 'static,
    ) {
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
            handler: Box::new(filter),
        });
    }

    /// Registers a filter of stanzas of every kind, at [`Point::StanzaOut`] or [`Point::StanzaIn`]. It runs for the users
    /// who have data of the type `T`. The server keeps this data in memory for as long as the user has a session:
    /// keep it small. Stanzas between the sessions of one user pass no such filter.
    ///
    /// # Panics
    /// At start, when the point or the stage is another one: a defect of the module.
    pub fn stanza_filter<T: EntityData>(
        &mut self,
        point: Point,
        stage: Stage,
        filter: impl Fn(&StanzaContext<'_>, &T, &Stanza) -> Result<(), Bounce> + Send + Sync + 'static,
    ) {
        assert!(
            stage <= Stage::Policy && matches!(point, Point::StanzaOut | Point::StanzaIn),
            "module {}: filters of stanzas run at StanzaOut and StanzaIn, before Archive",
            self.module
        );
        let data = DataType::of::<T>();
        if !self.collected.residents.iter().any(|d| d.name == data.name) {
            self.collected.residents.push(data);
        }
        let filter: StanzaFilter = Box::new(move |context, loaded, stanza| {
            loaded
                .get::<T>()
                .map_or(Ok(()), |data| filter(context, data, stanza))
        });
        let filters = &mut self.collected.stanza_filters;
        filters.push((point, stage, self.module, filter));
    }

    /// Registers an observer of the messages that it `concerns`.
    pub fn observer(
        &mut self,
        point: Point,
        stage: Stage,
        concerns: Concerns,
        observer: impl Fn(&MessageContext<'_>, &Stanza, &mut Vec<Action>) + Send + Sync + 'static,
    ) {
        self.collected.observers.push(Registered {
            point,
            stage,
            module: self.module,
            concerns,
            handler: Box::new(observer),
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
        handler: impl Fn(&IqContext<'_>, &Stanza, &Element) -> Vec<Action> + Send + Sync + 'static,
    ) -> IqKey {
        let key = (target, set, ns, name);
        let handler: IqHandler = Box::new(handler);
        let before = self.collected.iqs.insert(key, (self.module, handler));
        assert!(
            before.is_none(),
            "modules {} and {} both handle {ns} {name}",
            self.module,
            before.map_or("", |b| b.0)
        );
        key
    }

    /// The handler of that IQ needs this data of the addressed user: the request waits until it is loaded. Users
    /// without an account have none, so the request is refused for them.
    pub fn needs<T: EntityData>(&mut self, iq: IqKey) {
        let needs = self.collected.needs.entry(iq).or_default();
        needs.push(DataType::of::<T>());
    }

    /// The protocol of that IQ is not all here: service discovery does not tell of it.
    pub fn in_part(&mut self, iq: IqKey) {
        self.collected.in_part.insert(iq);
    }
}

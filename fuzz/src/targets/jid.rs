//! Addresses: normalising twice gives the same as once, and the parts form the whole address.

use sestina_xmpp::jid::Jid;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Bytes from a trusted tier are only split, and that must not panic.
    let wire = Jid::from_wire(text);
    assert_eq!(wire.as_str(), text);
    let _parts = (wire.local(), wire.domain(), wire.resource(), wire.bare());
    let Ok(jid) = Jid::parse(text) else { return };
    assert_eq!(
        Jid::parse(jid.as_str()).as_ref(),
        Ok(&jid),
        "normalising is idempotent"
    );
    assert!(jid.as_str().len() <= 1023 * 3 + 2);
    let mut whole = String::new();
    if let Some(local) = jid.local() {
        assert!(!local.is_empty());
        whole.push_str(local);
        whole.push('@');
    }
    assert!(!jid.domain().is_empty());
    whole.push_str(jid.domain());
    assert_eq!(jid.bare_str(), whole);
    assert!(jid.bare().is_bare());
    if let Some(resource) = jid.resource() {
        assert!(!resource.is_empty());
        whole.push('/');
        whole.push_str(resource);
        assert_eq!(jid.bare().with_resource(resource).as_ref(), Ok(&jid));
    }
    assert_eq!(jid.as_str(), whole);
    let again = Jid::new(jid.local(), jid.domain(), jid.resource());
    assert_eq!(again.as_ref(), Ok(&jid), "the parts are normalised");
    assert_eq!(Jid::from_wire(jid.as_str()), jid);
}

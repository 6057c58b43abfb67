//! The sessions of all routers.

use sestina_api::admin::AdminError;
use sestina_router::admin::SessionInfo;
use sestina_xmpp::jid::Jid;

use super::types::{Closed, SessionQuery, Sessions};
use super::{RouterAdmin, answer, arguments};

impl RouterAdmin {
    pub(super) async fn sessions_list(&self, query: SessionQuery) -> Result<Sessions, AdminError> {
        let running = self.running()?;
        let jid = query.jid.as_deref().map(parsed).transpose()?;
        let mut found = Sessions {
            complete: true,
            ..Sessions::default()
        };
        found.sessions = running.router.sessions().await;
        if let Some(jid) = &jid {
            found.sessions.retain(|session| names(jid, session));
        }
        if !query.local {
            let json = answer(&SessionQuery {
                local: true,
                jid: query.jid,
            })?;
            let (answers, missing) = self.ask_others(&running, "sessions.list", &json).await;
            for json in answers {
                found
                    .sessions
                    .extend(arguments::<Sessions>(&json)?.sessions);
            }
            found.complete = missing.is_empty();
            found.missing = missing;
        }
        found.sessions.sort_by(|a, b| a.jid.cmp(&b.jid));
        Ok(found)
    }

    pub(super) async fn sessions_close(&self, query: SessionQuery) -> Result<Closed, AdminError> {
        let running = self.running()?;
        let missing = || AdminError::new("invalid-arguments", "which session? name its JID");
        let jid = parsed(query.jid.as_deref().ok_or_else(missing)?)?;
        let mut done = Closed {
            complete: true,
            ..Closed::default()
        };
        done.closed = running.router.close_sessions(jid.as_str()).await;
        if !query.local {
            let json = answer(&SessionQuery {
                local: true,
                jid: Some(jid.as_str().to_owned()),
            })?;
            let (answers, missing) = self.ask_others(&running, "sessions.close", &json).await;
            for json in answers {
                done.closed += arguments::<Closed>(&json)?.closed;
            }
            done.complete = missing.is_empty();
            done.missing = missing;
        }
        Ok(done)
    }
}

fn parsed(text: &str) -> Result<Jid, AdminError> {
    Jid::parse(text)
        .map_err(|error| AdminError::new("invalid-arguments", format!("{text:?}: {error}")))
}

fn names(jid: &Jid, session: &SessionInfo) -> bool {
    if jid.is_bare() {
        session
            .jid
            .strip_prefix(jid.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
    } else {
        session.jid == jid.as_str()
    }
}

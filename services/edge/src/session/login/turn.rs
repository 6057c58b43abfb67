//! Logins of an overloaded process take turns, so that those who are logged in are served.

use std::time::Duration;

use sestina_runtime::pressure::Turn;

use crate::metrics::Count;
use crate::shared::Shared;

/// How long a login waits for its turn before the client is asked to try later. Less than the time
/// for a login.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for a turn; false if it did not come in time.
pub(super) async fn take(shared: &Shared) -> bool {
    let turn = shared.config.around.pressure.turn(PATIENCE).await;
    match turn {
        Turn::AtOnce => {}
        Turn::Waited => shared.metrics.count(Count::LoginDelayed, 1),
        Turn::Never => shared.metrics.count(Count::LoginShed, 1),
    }
    turn != Turn::Never
}

use std::sync::Arc;

use parking_lot::Mutex;
use sestina_api::link::RouterConnector;
use tracing::Span;

use super::support::*;
use crate::{Dialer, GrpcRouterConnector, Security, trace};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn the_trace_context_travels_with_a_call() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    assert!(trace::set_inject(|metadata| {
        metadata.insert("traceparent", PARENT.parse().unwrap());
    }));
    assert!(trace::set_extract(move |metadata, call| {
        let parent = metadata
            .get("traceparent")
            .map(|v| v.to_str().unwrap().to_owned());
        record.lock().push((call, parent));
        Span::none()
    }));
    assert!(!trace::set_inject(|_| {}), "the first hook stays");

    let router = Router::new();
    let server = router.serve(Security::Plaintext).await;
    let seeds = vec![server.address().unwrap().to_string().parse().unwrap()];
    let routers = GrpcRouterConnector::new(Dialer::new(Security::Plaintext), seeds);
    let port = routers.seeds().await.remove(0);
    port.credentials(Default::default()).await.unwrap();
    // Other tests of this process pass the hook too.
    assert!(
        seen.lock()
            .contains(&("credentials", Some(PARENT.to_owned())))
    );
}

//! One HTTP connection, until it ends or becomes a WebSocket.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use sestina_runtime::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite};

use super::site::{Ends, HttpSite};
use super::websocket::Upgrade;

/// Bounds of the head of a request.
const HEAD_BYTES: usize = 32 << 10;
const HEADERS: usize = 64;

/// A connection that has become a WebSocket.
pub(crate) struct Upgraded<S> {
    pub(crate) stream: S,
    pub(crate) upgrade: Upgrade,
    /// Bytes that followed the request.
    pub(crate) early: Vec<u8>,
}

impl HttpSite {
    /// Serves requests. Gives the stream back if it has become a WebSocket. After `end` it
    /// finishes the request in hand and closes.
    pub(crate) async fn serve<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        local: SocketAddr,
        tls: bool,
        end: &CancellationToken,
    ) -> Option<Upgraded<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ends = Ends { peer, local, tls };
        let upgrade = Mutex::new(None);
        let service = service_fn(|request| {
            let (ends, upgrade) = (&ends, &upgrade);
            Box::pin(async move {
                let mut response = self.answer(request, ends).await;
                *upgrade.lock() = response.extensions_mut().remove::<Upgrade>();
                Ok::<_, Infallible>(response)
            })
        });
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time())
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut end = pin!(end.cancelled());
        let mut ending = false;
        let result = poll_fn(|cx| {
            if !ending && end.as_mut().poll(cx).is_ready() {
                ending = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            Poll::Ready(ready!(http.poll_without_shutdown(cx)))
        })
        .await;
        if let Err(error) = result {
            tracing::debug!(%error, %peer, "http connection ended");
            return None;
        }
        let parts = http.into_parts();
        let mut stream = parts.io.into_inner();
        let upgrade = upgrade.lock().take();
        if let Some(upgrade) = upgrade {
            return Some(Upgraded {
                stream,
                upgrade,
                early: parts.read_buf.to_vec(),
            });
        }
        if let Err(error) = tokio::io::AsyncWriteExt::shutdown(&mut stream).await {
            tracing::trace!(%error, %peer, "http connection was closed by the client");
        }
        None
    }
}

//! Bodies that stream, in both directions. A service reads the body of a request piece by piece; what it
//! does not read stays with the client, because the socket is not read meanwhile. The body of an
//! answer is asked for its next piece when the one before has left for the socket.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// The body of an answer: one piece, or a stream.
pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why the body of a request cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than its route allows.
    #[error("the body of the request is too long")]
    TooLong,
    /// The client sent nothing for too long, while the service waited for it.
    #[error("the body of the request came too slowly")]
    TooSlow,
    /// The connection ended, or what came is no HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// The body of a request, bounded in bytes and in the time between two pieces.
pub struct RequestBody {
    pieces: Incoming,
    left: u64,
    patience: Duration,
    /// Runs while the service waits for the client.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// A body of at most `most` bytes; none if the request says that it has more.
    pub(super) fn new(pieces: Incoming, most: u64, patience: Duration) -> Option<RequestBody> {
        // The length of a body in chunks is not known before it has come.
        let unwanted = most == 0 && !pieces.is_end_stream();
        (pieces.size_hint().lower() <= most && !unwanted).then_some(RequestBody {
            pieces,
            left: most,
            patience,
            waiting: None,
        })
    }

    fn take(&mut self, frame: &Frame<Bytes>) -> Result<(), BodyError> {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.left = self.left.checked_sub(bytes).ok_or(BodyError::TooLong)?;
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(next) = Pin::new(&mut this.pieces).poll_frame(cx) else {
            let patience = this.patience;
            let waiting = this
                .waiting
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            ready!(waiting.as_mut().poll(cx));
            return Poll::Ready(Some(Err(BodyError::TooSlow)));
        };
        this.waiting = None;
        Poll::Ready(next.map(|frame| {
            let frame = frame?;
            this.take(&frame)?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.pieces.size_hint()
    }
}

/// An answer of one piece of text.
pub(super) fn text(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

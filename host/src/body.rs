//! The body of an answer: whole, or produced while it is sent.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::sync::Mutex;

/// The body of an answer.
#[derive(Default)]
pub enum Body {
    /// Nothing, or nothing more.
    #[default]
    Empty,
    /// All of it.
    Full(Bytes),
    /// What a future yields while it runs; dropped with the body when the caller leaves.
    Stream(Stream),
}

impl Body {
    /// A body that `produce` fills. It runs only while the connection takes what it yields, so a slow
    /// caller slows it down; it is dropped when the caller leaves.
    pub fn stream<F>(produce: impl FnOnce(Yielder) -> F) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let future = Box::pin(produce(Yielder(Arc::clone(&slot))));
        Self::Stream(Stream { future: Some(future), slot })
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(bytes.into())
    }
}

/// A body in the making.
pub struct Stream {
    future: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
    slot: Arc<Mutex<Option<Bytes>>>,
}

/// Hands pieces to the connection.
pub struct Yielder(Arc<Mutex<Option<Bytes>>>);

impl Yielder {
    /// Gives one piece away; returns when the connection took it.
    pub async fn send(&mut self, piece: Bytes) {
        *self.0.lock().expect("the slot's lock is never held across a panic") = Some(piece);
        let mut given = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut given, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.future.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(future) = &mut self.future else { return Poll::Ready(None) };
        let polled = future.as_mut().poll(cx);
        let piece = self.slot.lock().expect("the slot's lock is never held across a panic").take();
        if let Poll::Ready(result) = &polled {
            let failed = result.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
            self.future = None;
            if let Some(error) = failed {
                return Poll::Ready(Some(Err(error)));
            }
        }
        match piece {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.future.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

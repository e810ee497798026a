//! The gRPC service of publishers, and of back ends that listen.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use pushonce_core::{
    From as Begin, InvalidDelivery, InvalidPublish, Options, Publish, PublishError, Topic,
};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_server;
use pushonce_proto::publisher::{OUTCOME_HEADER, fetch_status, publish_status};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::{KeyRef, MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use crate::{Feed, Router, SubscribeError, subscription, undecoded};

pub(crate) struct Publisher {
    pub router: Router,
    pub feed: Arc<dyn Feed>,
    pub heartbeat: Duration,
    pub leave: Leave,
}

/// When streams end because the node goes down. They say why.
#[derive(Clone)]
pub(crate) struct Leave {
    /// Cancelled when the node goes down.
    pub closing: CancellationToken,
    /// Each stream ends at a random moment within this time from then.
    pub within: Duration,
    /// Those that have not ended.
    pub streams: TaskTracker,
}

impl Leave {
    /// The same stream, counted until it is dropped.
    fn count<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = T> + Send + 'static,
    ) -> BoxStream<'static, T> {
        let counted = self.streams.token();
        stream
            .inspect(move |_| {
                let _ = &counted;
            })
            .boxed()
    }

    /// The moment for one stream.
    fn due(&self) -> BoxFuture<'static, ()> {
        let Leave { closing, within, .. } = self.clone();
        Box::pin(async move {
            closing.cancelled().await;
            tokio::time::sleep(within.mul_f64(rand::random())).await;
        })
    }
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl publisher_server::Publisher for Publisher {
    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(name) = misplaced_key(&metadata) {
            return Err(misplaced(&name));
        }
        let publish = Publish::try_from(request).map_err(PublishError::from);
        let placed = match publish {
            Ok(publish) => self.router.publish(publish).await,
            Err(refused) => Err(refused),
        };
        placed.map(|placed| Response::new(placed.into())).map_err(|why| publish_status(&why))
    }

    type PublishStreamStream = Answers<pb::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        if let Some(name) = misplaced_key(request.metadata()) {
            return Err(misplaced(&name));
        }
        let broken = Arc::new(OnceLock::new());
        let requests = Requests {
            wire: request.into_inner(),
            closing: self.leave.due(),
            broken: broken.clone(),
        };
        let answers =
            self.router.ordered(requests).enumerate().map(|(count, outcome)| {
                Ok(pb::PublishStreamResponse::of(count as u64 + 1, outcome))
            });
        let end = stream::once(future::lazy(move |_| broken.get().cloned().map(Err)));
        let end = end.filter_map(future::ready);
        Ok(Response::new(self.leave.count(answers.chain(end))))
    }

    type SubscribeStream = Answers<pb::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let invalid = |why: &dyn std::error::Error| Status::invalid_argument(why.to_string());
        let topic = Topic::new(&request.topic).map_err(|why| invalid(&why))?;
        if topic.is_system() {
            return Err(invalid(&InvalidPublish::SystemTopic));
        }
        let from = request.from.unwrap_or_default();
        let from = Begin::try_from(from).map_err(|why| invalid(&why))?;
        let delivery = Some(request.delivery).filter(|text| !text.is_empty());
        let delivery = delivery.map(|text| text.parse()).transpose();
        let delivery = delivery.map_err(|why: InvalidDelivery| invalid(&why))?;
        let options = Options { delivery, conflated: request.conflated, ..Options::default() };
        let begun = self.feed.subscribe(topic, from, options).await;
        let (begun, items) = begun.map_err(subscribe_status)?;
        let events = subscription::events(from, begun, items, self.heartbeat);
        let events = events.map(|event| Ok(event.into()));
        let events = events.take_until(self.leave.due());
        Ok(Response::new(self.leave.count(events.chain(stream::iter([Err(going_down())])))))
    }
}

fn subscribe_status(error: SubscribeError) -> Status {
    match error {
        SubscribeError::Fetch(error) => fetch_status(&error),
        SubscribeError::Overloaded(_) => Status::resource_exhausted(error.to_string()),
    }
}

/// A header by which other APIs take the key of a request. Here it would be ignored, and a retry be
/// placed twice.
fn misplaced_key(metadata: &MetadataMap) -> Option<String> {
    let names = metadata.keys().map(|key| match key {
        KeyRef::Ascii(key) => key.as_str(),
        KeyRef::Binary(key) => key.as_str(),
    });
    names.into_iter().find(|name| name.contains("idempotency")).map(str::to_owned)
}

fn misplaced(name: &str) -> Status {
    let mut status = Status::invalid_argument(format!(
        "{name} is unknown; the key of a publish is the field `key` of the request"
    ));
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}

fn going_down() -> Status {
    Status::unavailable("this node goes down; go on at another, from the last position")
}

/// The messages of a stream. What breaks it is kept, to be told after the last acknowledgement.
struct Requests {
    wire: Streaming<pb::PublishRequest>,
    closing: BoxFuture<'static, ()>,
    broken: Arc<OnceLock<Status>>,
}

impl Stream for Requests {
    type Item = Result<Publish, PublishError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let why = match self.closing.poll_unpin(cx) {
            Poll::Ready(()) => going_down(),
            Poll::Pending => match ready!(self.wire.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(request)) => {
                    let publish = Publish::try_from(request).map_err(PublishError::from);
                    return Poll::Ready(Some(publish));
                }
                Some(Err(status)) if undecoded::is_of_decoder(&status) => {
                    undecoded::refused(&status)
                }
                Some(Err(status)) => status,
            },
        };
        // The first reason stands.
        let _ = self.broken.set(why);
        Poll::Ready(None)
    }
}

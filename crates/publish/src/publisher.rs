//! The gRPC service of publishers, and of back ends that listen.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use pushonce_core::{
    InvalidDelivery, InvalidPublish, Publish, PublishError, StartFrom as Begin, SubscribeOptions,
    Topic,
};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_server;
use pushonce_proto::publisher::{OUTCOME_HEADER, fetch_status, publish_status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::{KeyRef, MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use crate::{Router, SubscriptionSource, SubscriptionSourceError, decode_error, subscription};

pub(crate) struct PublisherService {
    pub router: Router,
    pub subscriptions: Arc<dyn SubscriptionSource>,
    pub heartbeat_interval: Duration,
    pub drain: StreamDrain,
}

/// When streams end because the node goes down. They say why.
#[derive(Clone)]
pub(crate) struct StreamDrain {
    /// Cancelled when the node goes down.
    pub closing: CancellationToken,
    /// Each stream ends at a random moment within this time from then.
    pub grace: Duration,
    /// Those that have not ended.
    pub streams: TaskTracker,
}

impl StreamDrain {
    /// The same stream, counted until it is dropped.
    fn track<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = T> + Send + 'static,
    ) -> BoxStream<'static, T> {
        let token = self.streams.token();
        stream
            .inspect(move |_| {
                let _ = &token;
            })
            .boxed()
    }

    /// The moment for one stream.
    fn wait_until_close(&self) -> BoxFuture<'static, ()> {
        let StreamDrain { closing, grace: within, .. } = self.clone();
        Box::pin(async move {
            closing.cancelled().await;
            tokio::time::sleep(within.mul_f64(rand::random())).await;
        })
    }
}

type ResponseStream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl publisher_server::Publisher for PublisherService {
    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(name) = find_idempotency_header(&metadata) {
            return Err(idempotency_header_status(&name));
        }
        let received_at = Instant::now();
        let publish = Publish::try_from(request).map_err(PublishError::from);
        let result = match publish {
            Ok(publish) => self.router.publish(publish).await,
            Err(error) => Err(error),
        };
        self.router.record_grpc_latency(received_at.elapsed());
        result
            .map(|acknowledgement| Response::new(acknowledgement.into()))
            .map_err(|error| publish_status(&error))
    }

    type PublishStreamStream = ResponseStream<pb::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        if let Some(name) = find_idempotency_header(request.metadata()) {
            return Err(idempotency_header_status(&name));
        }
        let stream_error = Arc::new(OnceLock::new());
        let requests = PublishRequests {
            requests: request.into_inner(),
            closing: self.drain.wait_until_close(),
            stream_error: stream_error.clone(),
        };
        let responses =
            self.router.publish_ordered(requests).enumerate().map(|(count, outcome)| {
                Ok(pb::PublishStreamResponse::from_outcome(count as u64 + 1, outcome))
            });
        let error_item = stream::once(future::lazy(move |_| stream_error.get().cloned().map(Err)));
        let error_item = error_item.filter_map(future::ready);
        Ok(Response::new(self.drain.track(responses.chain(error_item))))
    }

    type SubscribeStream = ResponseStream<pb::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let invalid = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
        let topic = Topic::new(&request.topic).map_err(|error| invalid(&error))?;
        if topic.is_system() {
            return Err(invalid(&InvalidPublish::SystemTopic));
        }
        let from = request.from.unwrap_or_default();
        let from = Begin::try_from(from).map_err(|error| invalid(&error))?;
        let delivery = Some(request.delivery).filter(|text| !text.is_empty());
        let delivery = delivery.map(|text| text.parse()).transpose();
        let delivery = delivery.map_err(|error: InvalidDelivery| invalid(&error))?;
        let options = SubscribeOptions {
            delivery,
            report_conflated: request.conflated,
            ..SubscribeOptions::default()
        };
        let subscribed = self.subscriptions.subscribe(topic, from, options).await;
        let (start, items) = subscribed.map_err(subscribe_status)?;
        let events = subscription::event_stream(from, start, items, self.heartbeat_interval);
        let events = events.map(|event| Ok(event.into()));
        let events = events.take_until(self.drain.wait_until_close());
        Ok(Response::new(self.drain.track(events.chain(stream::iter([Err(shutting_down())])))))
    }
}

fn subscribe_status(error: SubscriptionSourceError) -> Status {
    match error {
        SubscriptionSourceError::Fetch(error) => fetch_status(&error),
        SubscriptionSourceError::Overloaded(_) => Status::resource_exhausted(error.to_string()),
    }
}

/// A header by which other APIs take the key of a request. Here it would be ignored, and a retry be
/// placed twice.
fn find_idempotency_header(metadata: &MetadataMap) -> Option<String> {
    let names = metadata.keys().map(|key| match key {
        KeyRef::Ascii(key) => key.as_str(),
        KeyRef::Binary(key) => key.as_str(),
    });
    names.into_iter().find(|name| name.contains("idempotency")).map(str::to_owned)
}

fn idempotency_header_status(name: &str) -> Status {
    let mut status = Status::invalid_argument(format!(
        "{name} is unknown; the key of a publish is the field `key` of the request"
    ));
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}

fn shutting_down() -> Status {
    Status::unavailable("this node goes down; go on at another, from the last position")
}

/// The messages of a stream. What breaks it is kept, to be told after the last acknowledgement.
struct PublishRequests {
    requests: Streaming<pb::PublishRequest>,
    closing: BoxFuture<'static, ()>,
    stream_error: Arc<OnceLock<Status>>,
}

impl Stream for PublishRequests {
    type Item = Result<Publish, PublishError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let status = match self.closing.poll_unpin(cx) {
            Poll::Ready(()) => shutting_down(),
            Poll::Pending => match ready!(self.requests.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(request)) => {
                    let publish = Publish::try_from(request).map_err(PublishError::from);
                    return Poll::Ready(Some(publish));
                }
                Some(Err(status)) if decode_error::is_decode_error(&status) => {
                    decode_error::decode_error_status(&status)
                }
                Some(Err(status)) => status,
            },
        };
        // The first reason stands.
        let _ = self.stream_error.set(status);
        Poll::Ready(None)
    }
}

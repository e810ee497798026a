//! The gRPC service of publishers and subscribing back ends.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use pushonce_auth::audit::Requester;
use pushonce_auth::{AccessControl, AccessError, Action, PublishDoor};
use pushonce_core::{
    InvalidDelivery, InvalidPublish, OverloadReason, Publish, PublishError, PublishRejection,
    StartFrom, SubscribeOptions, Topic,
};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_server;
use pushonce_proto::publisher::{OUTCOME_HEADER, fetch_status, publish_status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::{KeyRef, MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::caller_limits::CallerLimits;
use crate::{
    Router, SubscriptionSource, SubscriptionSourceError, authenticate, decode_error, subscription,
};

/// How long a caller waits before it subscribes again at an overloaded node: as `Retry-After` over HTTP.
const OVERLOAD_RETRY_DELAY: Duration = Duration::from_secs(10);

pub(crate) struct PublisherService {
    pub access: AccessControl,
    pub limits: CallerLimits,
    pub router: Router,
    pub subscriptions: Arc<dyn SubscriptionSource>,
    pub heartbeat_interval: Duration,
    pub drain: StreamDrain,
}

/// Ends the streams, with a reason, when the node shuts down.
#[derive(Clone)]
pub(crate) struct StreamDrain {
    /// Cancelled when the node shuts down.
    pub closing: CancellationToken,
    /// Each stream ends at a random time within this period after that.
    pub grace: Duration,
    /// The open streams.
    pub streams: TaskTracker,
}

impl StreamDrain {
    /// Counts the stream as open until it is dropped.
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

    /// Waits until one stream is to be closed.
    fn wait_until_close(&self) -> BoxFuture<'static, ()> {
        let StreamDrain { closing, grace, .. } = self.clone();
        Box::pin(async move {
            closing.cancelled().await;
            tokio::time::sleep(grace.mul_f64(rand::random())).await;
        })
    }
}

type ResponseStream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl publisher_service_server::PublisherService for PublisherService {
    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let requester = authenticate::requester(&extensions)?;
        if let Some(name) = find_idempotency_header(&metadata) {
            return Err(idempotency_header_status(&name));
        }
        let received_at = Instant::now();
        let publish = Publish::try_from(request).map_err(PublishError::from);
        if let Ok(publish) = &publish {
            let action = Action::Publish(&publish.topic, PublishDoor::Backend);
            authenticate::authorize(&self.access, &requester, action)?;
            self.limits.check_publish(&requester, &publish.topic).map_err(|exceeded| {
                let mut status = rate_status(exceeded.retry_after(), &exceeded);
                let refused = MetadataValue::from_static("refused");
                status.metadata_mut().insert(OUTCOME_HEADER, refused);
                status
            })?;
        }
        let result = match publish {
            Ok(publish) => self.router.publish(publish).await,
            Err(error) => Err(error),
        };
        self.limits.on_outcome(&requester, &result);
        self.router.metrics().record_unary(received_at.elapsed());
        result
            .map(|acknowledgement| Response::new(acknowledgement.into()))
            .map_err(|error| publish_status(&error))
    }

    type PublishStreamStream = ResponseStream<pb::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<pb::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        if let Some(name) = find_idempotency_header(request.metadata()) {
            return Err(idempotency_header_status(&name));
        }
        let requester = authenticate::requester(request.extensions())?;
        let stream_error = Arc::new(OnceLock::new());
        let requests = PublishRequests {
            requests: request.into_inner(),
            closing: self.stream_end({
                let (access, caller) = (self.access.clone(), requester.caller.clone());
                async move { access.wait_until_invalid(&caller).await }
            }),
            access: self.access.clone(),
            limits: self.limits.clone(),
            requester: requester.clone(),
            stream_error: stream_error.clone(),
        };
        let latency = self.router.metrics().stream_latency();
        let outcomes = self.router.publish_ordered(requests).with_latency(latency);
        let limits = self.limits.clone();
        let responses = outcomes.enumerate().map(move |(count, outcome)| {
            limits.on_outcome(&requester, &outcome);
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
        let requester = authenticate::requester(request.extensions())?;
        let request = request.into_inner();
        let invalid = |code: ErrorCode, error: &dyn std::error::Error| {
            ErrorReason::from(code).to_status(Code::InvalidArgument, error.to_string())
        };
        let topic = Topic::new(&request.topic);
        let topic = topic.map_err(|error| invalid(ErrorCode::BadTopic, &error))?;
        if topic.is_system() {
            return Err(invalid(ErrorCode::NotAllowed, &InvalidPublish::SystemTopic));
        }
        let from = request.start_from.unwrap_or_default();
        let from = StartFrom::try_from(from);
        let from = from.map_err(|error| invalid(ErrorCode::BadPosition, &error))?;
        authenticate::authorize(&self.access, &requester, Action::Subscribe(&topic))?;
        if !matches!(from, StartFrom::Now | StartFrom::Last(0)) {
            authenticate::authorize(&self.access, &requester, Action::ReadHistory(&topic))?;
        }
        self.limits
            .check_subscribe(&requester)
            .map_err(|exceeded| rate_status(exceeded.retry_after, &exceeded))?;
        let delivery = Some(request.delivery).filter(|text| !text.is_empty());
        let delivery = delivery.map(|text| text.parse()).transpose();
        let delivery =
            delivery.map_err(|error: InvalidDelivery| invalid(ErrorCode::BadRequest, &error))?;
        let options = SubscribeOptions {
            delivery,
            report_conflated: request.conflated,
            ..SubscribeOptions::default()
        };
        let subscribed = self.subscriptions.subscribe(topic.clone(), from, options).await;
        let (start, items) = subscribed.map_err(subscribe_status)?;
        let events = subscription::event_stream(from, start, items, self.heartbeat_interval);
        let events = events.map(|event| Ok(event.into()));
        let (access, caller) = (self.access.clone(), requester.caller.clone());
        let refusal =
            async move { access.wait_until_refused(&caller, Action::Subscribe(&topic)).await };
        let mut stream_end = self.stream_end(refusal).shared();
        let events = events.take_until(stream_end.clone());
        let last = stream::once(async move { Err((&mut stream_end).await) });
        Ok(Response::new(self.drain.track(events.chain(last))))
    }
}

impl PublisherService {
    /// Waits until a stream must end, because of `refusal` or because the node shuts down, and returns the status
    /// with which it does.
    fn stream_end(
        &self,
        refusal: impl Future<Output = AccessError> + Send + 'static,
    ) -> BoxFuture<'static, Status> {
        let closing = self.drain.wait_until_close();
        Box::pin(async move {
            tokio::select! {
                () = closing => shutting_down(),
                error = refusal => authenticate::refused_status(&error),
            }
        })
    }
}

fn rate_status(retry_after: Duration, exceeded: &dyn std::error::Error) -> Status {
    let reason = ErrorReason { retry_delay: Some(retry_after), ..ErrorCode::Overloaded.into() };
    reason.to_status(Code::ResourceExhausted, exceeded.to_string())
}

fn subscribe_status(error: SubscriptionSourceError) -> Status {
    match error {
        SubscriptionSourceError::Fetch(error) => fetch_status(&error),
        SubscriptionSourceError::Overloaded => rate_status(OVERLOAD_RETRY_DELAY, &error),
    }
}

/// The name of a header in which other APIs expect the idempotency key, if there is one. Here it would be
/// ignored, and a retry would be stored twice.
fn find_idempotency_header(metadata: &MetadataMap) -> Option<String> {
    let names = metadata.keys().map(|key| match key {
        KeyRef::Ascii(key) => key.as_str(),
        KeyRef::Binary(key) => key.as_str(),
    });
    names.into_iter().find(|name| name.contains("idempotency")).map(str::to_owned)
}

fn idempotency_header_status(name: &str) -> Status {
    let text = format!("the header {name} is not supported; set the field `key` of the request");
    let mut status =
        ErrorReason::from(ErrorCode::BadRequest).to_status(Code::InvalidArgument, text);
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}

fn shutting_down() -> Status {
    let text = "this node shuts down; continue at another node from the last position";
    ErrorReason::from(ErrorCode::Unavailable).to_status(Code::Unavailable, text)
}

/// The messages of a stream. The error that ends it is kept, and sent after the last acknowledgement.
struct PublishRequests {
    requests: Streaming<pb::PublishStreamRequest>,
    closing: BoxFuture<'static, Status>,
    access: AccessControl,
    limits: CallerLimits,
    requester: Arc<Requester>,
    stream_error: Arc<OnceLock<Status>>,
}

impl PublishRequests {
    fn authorize(&self, publish: Publish) -> Result<Publish, PublishError> {
        let action = Action::Publish(&publish.topic, PublishDoor::Backend);
        authenticate::authorize_publish(&self.access, &self.requester, action)?;
        self.limits
            .check_publish(&self.requester, &publish.topic)
            .map_err(|exceeded| PublishRejection::from(OverloadReason::from(exceeded)))?;
        Ok(publish)
    }
}

impl Stream for PublishRequests {
    type Item = Result<Publish, PublishError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let status = match self.closing.poll_unpin(cx) {
            Poll::Ready(status) => status,
            Poll::Pending => match ready!(self.requests.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(request)) => {
                    let publish = Publish::try_from(request).map_err(PublishError::from);
                    return Poll::Ready(Some(publish.and_then(|publish| self.authorize(publish))));
                }
                Some(Err(status)) if decode_error::is_decode_error(&status) => {
                    decode_error::decode_error_status(&status)
                }
                Some(Err(status)) => status,
            },
        };
        // Keeps the first error.
        let _ = self.stream_error.set(status);
        Poll::Ready(None)
    }
}

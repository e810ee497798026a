//! Where the bytes of an event stream go: the socket of an HTTP/1 connection, or a response body over HTTP/2.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use pushonce_fanout::{FrameRun, FrameSink, OfferOutcome, SinkClosed};

use super::event::EventBlock;
use super::positions::StreamPositions;
use crate::socket::SessionSocket;
use crate::socket_sink::SocketSink;

/// The output of one stream.
pub(super) trait EventOutput: FrameSink + 'static {
    /// Begins the response, with the first bytes of its body.
    fn begin(&mut self, head: Response<()>, body: Bytes);

    /// Queues bytes of the body.
    fn push(&mut self, bytes: Bytes);

    /// Queues the last bytes of the body.
    fn push_last(&mut self, bytes: Bytes);

    /// Keeps as few bytes as possible on their way, for a stream whose messages the next one replaces.
    fn limit_unsent(&mut self);

    /// Whether bytes wait to be sent.
    fn has_pending(&self) -> bool;

    /// Whether bytes were sent since the last call.
    fn take_progressed(&mut self) -> bool;

    /// The address of the client, while the connection lasts.
    fn remote_address(&self) -> Option<SocketAddr>;
}

/// The sink of one stream. For a stream of several topics it adds one block with the positions to each write: the
/// shared bytes of a message cannot hold the positions of the other topics.
pub(super) struct EventSink<O> {
    pub(super) output: O,
    /// Boxed, because most streams have one topic.
    pub(super) positions: Option<Box<StreamPositions>>,
}

impl<O: EventOutput> FrameSink for EventSink<O> {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let Some(positions) = &mut self.positions else { return self.output.offer(runs) };
        let mut reached = positions.clone();
        reached.advance(runs, usize::MAX);
        if reached == *positions {
            return self.output.offer(runs);
        }
        let frame_count: usize = runs.iter().map(|run| run.frames.len()).sum();
        let block = [EventBlock::new(0).positions(&reached).finish()];
        let id_run = FrameRun { token: 0, frames: &block, concatenated: None, cursors: &[] };
        let with_id: Vec<_> = runs.iter().copied().chain([id_run]).collect();
        let outcome = self.output.offer(&with_id)?;
        if outcome.accepted >= frame_count {
            *positions = reached;
        } else {
            // The positions of these frames are sent with the next ones.
            positions.advance(runs, outcome.accepted);
        }
        if outcome.accepted == frame_count {
            let [block] = block;
            self.output.push(block);
        }
        Ok(OfferOutcome { accepted: outcome.accepted.min(frame_count), ..outcome })
    }
}

impl<S: SessionSocket> EventOutput for SocketSink<S> {
    fn begin(&mut self, head: Response<()>, body: Bytes) {
        self.push(encode_head(&head, &body));
    }

    fn push(&mut self, bytes: Bytes) {
        self.push(bytes);
    }

    fn push_last(&mut self, bytes: Bytes) {
        self.push_last(bytes);
    }

    fn limit_unsent(&mut self) {
        self.limit_unsent();
    }

    fn has_pending(&self) -> bool {
        self.has_pending()
    }

    fn take_progressed(&mut self) -> bool {
        self.take_progressed()
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_address()
    }
}

/// The head of an HTTP/1.1 response whose body ends with the connection, and the begin of the body.
fn encode_head(head: &Response<()>, body: &[u8]) -> Bytes {
    let status = head.status();
    let mut out = BytesMut::with_capacity(1_024 + body.len());
    let reason = status.canonical_reason().unwrap_or_default();
    out.put(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    for (name, value) in head.headers() {
        out.put(name.as_str().as_bytes());
        out.put(&b": "[..]);
        out.put(value.as_bytes());
        out.put(&b"\r\n"[..]);
    }
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    out.put(format!("date: {date}\r\nconnection: close\r\n\r\n").as_bytes());
    out.put(body);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Position, StartFrom};

    use super::*;

    /// Accepts this many frames of each offer.
    struct LimitedOutput {
        limit: usize,
        written: Vec<u8>,
    }

    impl FrameSink for LimitedOutput {
        fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
            let frames: Vec<_> = runs.iter().flat_map(|run| run.frames).take(self.limit).collect();
            let accepted = frames.len();
            frames.into_iter().for_each(|frame| self.written.extend(frame));
            Ok(OfferOutcome { accepted, is_blocked: false })
        }
    }

    impl EventOutput for LimitedOutput {
        fn begin(&mut self, _: Response<()>, _: Bytes) {}

        fn push(&mut self, bytes: Bytes) {
            self.written.extend(bytes);
        }

        fn push_last(&mut self, bytes: Bytes) {
            self.push(bytes);
        }

        fn limit_unsent(&mut self) {}

        fn has_pending(&self) -> bool {
            false
        }

        fn take_progressed(&mut self) -> bool {
            false
        }

        fn remote_address(&self) -> Option<SocketAddr> {
            None
        }
    }

    #[test]
    fn write_of_several_topics_ends_with_their_positions_once_all_frames_are_accepted() {
        let frames = ["a1;", "a2;", "b1;"].map(|text| Bytes::from_static(text.as_bytes()));
        let cursors = [1, 2, 1].map(|offset| Position::new(7, offset));
        let runs = [(0, 0..2), (1, 2..3)].map(|(token, range)| FrameRun {
            token,
            frames: &frames[range.clone()],
            concatenated: None,
            cursors: &cursors[range],
        });
        for (limit, accepted, written, reached) in [
            (4, 3, "a1;a2;b1;id: 7:2,7:1\n\n", "7:2,7:1"),
            (3, 3, "a1;a2;b1;id: 7:2,7:1\n\n", "7:2,7:1"),
            (2, 2, "a1;a2;", "7:2,-"),
            (0, 0, "", "-,-"),
        ] {
            let output = LimitedOutput { limit, written: Vec::new() };
            let positions = Some(Box::new(StreamPositions::of_starts([StartFrom::Now; 2].iter())));
            let mut sink = EventSink { output, positions };
            assert_eq!(sink.offer(&runs).map(|outcome| outcome.accepted), Ok(accepted), "{limit}");
            assert_eq!(String::from_utf8_lossy(&sink.output.written), written);
            assert_eq!(sink.positions.map(|ids| ids.to_string()).as_deref(), Some(reached));
        }
    }

    #[test]
    fn head_of_the_response_ends_before_the_first_event() {
        let head = Response::builder().header("content-type", "text/event-stream").body(());
        let bytes = encode_head(&head.expect("a response"), b"retry: 1\n\n");
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"),
            "{text}"
        );
        assert!(text.ends_with(" GMT\r\nconnection: close\r\n\r\nretry: 1\n\n"), "{text}");
    }
}

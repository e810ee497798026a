//! What the server sends on the streams of HTTP/3 itself: its control stream, and the stream of the session's request.

use std::rc::Rc;

use bytes::Bytes;
use pushonce_quic::{Connection, StreamId, StreamWriteError};
use pushonce_telemetry::Counter;
use pushonce_webtransport::wire;

use super::stream_writer::StreamWriter;

/// The streams, which the transport and the connection both write to.
pub(super) struct Http3Output {
    connection: Rc<Connection>,
    control: StreamWriter,
    request: Option<RequestWriter>,
    bytes_out: Counter,
}

/// The stream of a request.
struct RequestWriter {
    writer: StreamWriter,
    /// The id of the stream, and of the session.
    session: u64,
    /// The stream ends after the queued bytes.
    is_ending: bool,
    is_finished: bool,
}

impl Http3Output {
    /// Opens the control stream and sends the SETTINGS. `None`: the client allows no stream.
    pub(super) fn open(connection: Rc<Connection>, bytes_out: Counter) -> Option<Http3Output> {
        let mut control = StreamWriter::new(connection.try_open_stream()?);
        control.queue.push_back(wire::control_stream());
        let mut output = Http3Output { connection, control, request: None, bytes_out };
        output.flush();
        Some(output)
    }

    /// Sends the response to a request on its stream. With `is_end`, nothing follows.
    pub(super) fn respond(&mut self, stream: StreamId, id: u64, response: Bytes, is_end: bool) {
        let mut writer = StreamWriter::new(stream);
        writer.queue.push_back(response);
        let request = RequestWriter { writer, session: id, is_ending: is_end, is_finished: false };
        self.request = Some(request);
        self.flush();
    }

    /// Announces that the connection will end soon.
    pub(super) fn announce_end(&mut self) {
        let Some(RequestWriter { writer, session, is_ending: false, .. }) = &mut self.request
        else {
            return;
        };
        self.control.queue.push_back(wire::goaway(*session));
        writer.queue.push_back(wire::drain());
        self.flush();
    }

    /// Ends the session with a code and a reason. Returns the stream of its request, whose acknowledgement means that the
    /// client knows them; `None` if there is none.
    pub(super) fn close_session(&mut self, code: u32, reason: &str) -> Option<StreamId> {
        let request = self.request.as_mut()?;
        if !request.is_ending {
            request.writer.queue.push_back(wire::close(code, reason));
            request.is_ending = true;
        }
        let stream = request.writer.id;
        self.flush();
        Some(stream)
    }

    /// Writes the queued bytes, as far as there is room. A stream that the client stopped keeps its queue: the session
    /// ends with the connection.
    pub(super) fn flush(&mut self) {
        let _: Result<(), StreamWriteError> = self.control.flush(&self.connection, &self.bytes_out);
        let Some(request) = &mut self.request else { return };
        let flushed = request.writer.flush(&self.connection, &self.bytes_out);
        if flushed.is_ok() && request.is_ending && !request.is_finished {
            self.connection.finish_stream(request.writer.id);
            request.is_finished = true;
        }
    }
}

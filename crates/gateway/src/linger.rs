//! Closes a TCP connection whose client may still be sending.
//!
//! Closing a socket with unread bytes resets the connection, and the reset discards the response in the
//! client's receive buffer: a client that is rejected while it still sends its body sees a broken pipe
//! instead of the error. The write side is therefore closed first, and further input is read and discarded,
//! for a bounded time and number of bytes.

use std::io::ErrorKind;
use std::time::Duration;

use pushonce_core::FailPoint;

use crate::lane::LaneState;
use crate::socket::{self, ClientSocket, Tcp};

/// Maximum number of discarded bytes: enough for a client that reads the response only after it sent its
/// body.
const BYTES_MAX: usize = 16 << 20;

/// Maximum time to wait for the client to close. A client that is slower will not read the response either.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Closes the connection after the last written byte.
pub(crate) async fn close(lane: &LaneState, stream: &impl ClientSocket) {
    let closed = async {
        end_stream(stream).await;
        if !FailPoint::LingerSkipped.is_active() {
            discard(lane, stream.tcp()).await;
        }
    };
    let _ = tokio::time::timeout(TIMEOUT, closed).await;
}

/// Ends the outgoing stream, after the bytes that wait for the socket.
async fn end_stream(stream: &impl ClientSocket) {
    stream.close_write();
    while stream.has_unsent() && socket::writable(stream.tcp()).await.is_ok() {
        stream.close_write();
    }
}

/// Discards input until the client closes its side or has sent [`BYTES_MAX`].
async fn discard(lane: &LaneState, tcp: &impl Tcp) {
    let mut remaining = BYTES_MAX;
    while remaining > 0 && socket::readable(tcp).await.is_ok() {
        let mut scratch = lane.scratch.borrow_mut();
        match Tcp::try_read(tcp, &mut scratch) {
            Ok(0) => return,
            Ok(len) => remaining = remaining.saturating_sub(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

//! Closing a TCP connection whose client may still be writing.
//!
//! A socket that is closed with unread bytes resets the connection, and the reset takes the answer out
//! of the client's receive buffer: a client that was refused while it still sent its body sees a
//! broken pipe instead of the refusal. So the write side is closed first, and what still comes is read
//! and discarded, for a bounded time and number of bytes.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use pushonce_core::FailPoint;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::lane::LaneState;

/// As many bytes as a client has under way that does not look for an answer before its body is sent.
const BYTES_MAX: usize = 16 << 20;

/// A client that is gone for so long does not read the answer either.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Ends the connection behind the last byte that was written.
pub(crate) async fn close(lane: &LaneState, stream: TcpStream) {
    // An error only says that the client was first.
    let _ = SockRef::from(&stream).shutdown(Shutdown::Write);
    if FailPoint::LingerSkipped.is_active() {
        return;
    }
    let _ = tokio::time::timeout(TIMEOUT, discard(lane, &stream)).await;
}

/// Until the client has closed its side, or has sent too much.
async fn discard(lane: &LaneState, stream: &TcpStream) {
    let mut remaining = BYTES_MAX;
    while remaining > 0 && stream.readable().await.is_ok() {
        let mut scratch = lane.scratch.borrow_mut();
        match stream.try_read(&mut scratch) {
            Ok(0) => return,
            Ok(len) => remaining = remaining.saturating_sub(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

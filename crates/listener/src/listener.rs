//! The accept loop of all TCP ports.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pushonce_telemetry::{Counter, LogLimiter};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};

use crate::metrics;

/// Delay after a failed accept. The failed connection stays in the backlog and keeps the listener readable,
/// so a loop without a delay uses a whole core. Connections that close meanwhile free descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A bound TCP port whose accept does not fail.
#[derive(Debug)]
pub struct InfallibleListener {
    name: &'static str,
    listener: TcpListener,
    accept_failed_total: Counter,
}

impl InfallibleListener {
    /// Accepts connections of `listener`. `name` identifies the listener in logs and metrics.
    pub fn new(name: &'static str, listener: TcpListener) -> InfallibleListener {
        let accept_failed_total = metrics::ACCEPT_ERRORS.register_counter(&[name]);
        InfallibleListener { name, listener, accept_failed_total }
    }

    /// The name of the listener.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The address to which the listener is bound.
    ///
    /// # Errors
    /// See [`TcpListener::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns the next connection. Waits while the system has no descriptor or memory for one. Cancel safe:
    /// no connection is lost when the future is dropped.
    pub async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    self.report_failure(&error);
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn report_failure(&self, error: &io::Error) {
        /// Of all listeners of the process: they run out of descriptors together.
        static LIMITER: LogLimiter = LogLimiter::new();
        self.accept_failed_total.increment(1);
        if let Some(suppressed) = LIMITER.allow(Instant::now()) {
            tracing::warn!(
                %error, listener = self.name, suppressed,
                "cannot accept a connection; raise the limit of open files"
            );
        }
    }
}

/// Whether the connection failed before it was accepted. Linux also returns pending network errors of the new
/// connection, which must be handled like an aborted connection (`accept(2)`).
fn is_connection_error(error: &io::Error) -> bool {
    const NETWORK_ERRORS: [Errno; 8] = [
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
        || Errno::from_io_error(error).is_some_and(|errno| NETWORK_ERRORS.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_exhaustion_is_distinguished_from_a_failed_connection() {
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::HOSTUNREACH] {
            assert!(is_connection_error(&errno.into()), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_connection_error(&errno.into()), "{errno}");
        }
    }
}

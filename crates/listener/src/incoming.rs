//! The accepted connections of a gRPC server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{self, Stream};
use pushonce_telemetry::{Counter, LogLimiter};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::connection::ConnectionPermits;
use crate::{
    AddressLimits, AddressPermit, AddressRefusal, ConnectionPurpose, DescriptorBudget,
    GrpcConnection, InfallibleListener, metrics,
};

/// Unsent bytes that the kernel may hold for a connection. The default is some MiB of messages, which are
/// outdated when a slow reader continues; with less than one write of the server there are more wake-ups than
/// writes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 32 << 10;

/// Accepts the connections of one gRPC port within the budget.
struct Acceptor {
    listener: InfallibleListener,
    budget: DescriptorBudget,
    purpose: ConnectionPurpose,
    /// Permits of open connections, if the budget limits their number.
    permits: Option<Arc<Semaphore>>,
    address_limits: Option<AddressLimits>,
    refused_total: Counter,
    refused_address_total: Counter,
}

/// The endless stream of connections of `listener` that `budget` and the limits of their address admit, for
/// `serve_with_incoming`. Other connections are closed at once and counted in
/// `pushonce_listener_connections_rejected_total`.
pub fn incoming(
    listener: InfallibleListener,
    budget: DescriptorBudget,
    purpose: ConnectionPurpose,
    address_limits: Option<AddressLimits>,
) -> impl Stream<Item = Result<GrpcConnection, Infallible>> {
    let max = budget.connections_max(purpose);
    let permits = max.map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))));
    let refused =
        |reason| metrics::REJECTED_CONNECTIONS.register_counter(&[listener.name(), reason]);
    let (refused_total, refused_address_total) = (refused("descriptors"), refused("address"));
    let acceptor = Acceptor {
        listener,
        budget,
        purpose,
        permits,
        address_limits,
        refused_total,
        refused_address_total,
    };
    stream::unfold(acceptor, async |acceptor| Some((Ok(acceptor.next().await), acceptor)))
}

impl Acceptor {
    async fn next(&self) -> GrpcConnection {
        loop {
            let stream = self.listener.accept().await;
            if let Some(connection) = self.admit(stream) {
                return connection;
            }
            // A client that reconnects at once must not occupy this task.
            tokio::task::yield_now().await;
        }
    }

    fn admit(&self, stream: TcpStream) -> Option<GrpcConnection> {
        let permit = self.permits.clone().map(Semaphore::try_acquire_owned).transpose();
        let is_within_budget = self.budget.admits(self.purpose, &stream);
        let Some(permit) = permit.ok().filter(|_| is_within_budget) else {
            self.report_refused();
            return None;
        };
        let Ok(address_permit) = self.admit_address(&stream) else {
            self.refused_address_total.increment(1);
            return None;
        };
        // An error means that the connection is closed, which the next read detects.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        let permits = ConnectionPermits { _listener: permit, _address: address_permit };
        Some(GrpcConnection::new(stream, permits))
    }

    fn admit_address(&self, stream: &TcpStream) -> Result<Option<AddressPermit>, AddressRefusal> {
        // A connection without an address is closed already.
        let address = stream.peer_addr().ok().map(|address| address.ip());
        let limits = self.address_limits.as_ref().zip(address);
        limits.map(|(limits, address)| limits.admit(address, Instant::now())).transpose()
    }

    fn report_refused(&self) {
        /// Of all gRPC ports of the process.
        static LIMITER: LogLimiter = LogLimiter::new();
        self.refused_total.increment(1);
        if let Some(suppressed) = LIMITER.allow(Instant::now()) {
            tracing::warn!(
                listener = self.listener.name(),
                suppressed,
                "rejected a connection, the file descriptors for it are in use; \
                 raise the limit of open files"
            );
        }
    }
}

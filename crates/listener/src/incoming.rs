//! The connections of a gRPC server.

use std::convert::Infallible;
use std::sync::Arc;

use futures::stream::{self, Stream};
use metrics::{Counter, counter};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::{Connection, DescriptorBudget, Listener, Purpose, throttle};

/// Bytes that the kernel may hold unsent for a connection. By default that is some MiB, of messages that
/// are old when a slow reader reads on; less than a write of the server costs more wakes than writes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 32 << 10;

/// Accepts the connections of one gRPC port within the budget.
struct Door {
    listener: Listener,
    budget: DescriptorBudget,
    purpose: Purpose,
    /// Open connections, where the budget bounds them.
    room: Option<Arc<Semaphore>>,
    refused: Counter,
}

/// Every connection of `listener` that `budget` has room for, for ever; for
/// `serve_with_incoming`. The others are closed at once and counted in
/// `pushonce_listener_refused_total`.
pub fn incoming(
    listener: Listener,
    budget: DescriptorBudget,
    purpose: Purpose,
) -> impl Stream<Item = Result<Connection, Infallible>> {
    let max = budget.connections_max(purpose);
    let room = max.map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))));
    let refused = counter!("pushonce_listener_refused_total", "listener" => listener.name());
    let door = Door { listener, budget, purpose, room, refused };
    stream::unfold(door, async |door| Some((Ok(door.next().await), door)))
}

impl Door {
    async fn next(&self) -> Connection {
        loop {
            let stream = self.listener.accept().await;
            if let Some(connection) = self.admit(stream) {
                return connection;
            }
            // A client that comes back at once must not keep this task to itself.
            tokio::task::yield_now().await;
        }
    }

    fn admit(&self, stream: TcpStream) -> Option<Connection> {
        let permit = self.room.clone().map(Semaphore::try_acquire_owned).transpose();
        let fits = self.budget.admits(self.purpose, &stream);
        let Some(permit) = permit.ok().filter(|_| fits) else {
            self.report();
            return None;
        };
        // An error means that the connection is gone, which is noticed when it is read.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        Some(Connection::new(stream, permit))
    }

    fn report(&self) {
        self.refused.increment(1);
        if let Some(suppressed) = throttle::LOG.pass() {
            tracing::warn!(
                listener = self.listener.name(),
                suppressed,
                "closed a new connection: the descriptors for it are in use; \
                 raise the limit of open files"
            );
        }
    }
}

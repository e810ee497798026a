//! The state that the sessions of a lane share, and the admission of new sessions.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_auth::{AccessControl, AccessError, Action, Caller};
use pushonce_core::{ClusterView, Delivery, DeliveryNotAllowed, Publish, Timestamp, Topic};
use pushonce_listener::{AddressPermit, AddressRefusal, ConnectionPurpose, DescriptorBudget};
use pushonce_proto::client::Encoding;
use pushonce_telemetry::LogLimiter;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, Span};

use crate::access_watch::AccessWatch;
use crate::admission::{LaneAdmission, RecentShortages};
use crate::connection::{self, ConnectionPermit};
use crate::metrics::{GatewayMetrics, Shortage};
use crate::overflow::Overflow;
use crate::pressure::{self, LoadTracker, MemoryUse, Pressure};
use crate::reactor::{Reactor, ReactorDriver, SlotKey};
use crate::registry::SessionRegistry;
use crate::session::{AccessGate, SessionLimits};
use crate::tls_stream::TlsLane;
use crate::{ClientLimits, Config, PublishRouter};

/// The one read buffer of a lane, shared by all its sessions: as much as the kernel returns at once for a
/// busy client. A smaller buffer means more reads of large frames, a larger one is never filled.
const SCRATCH_BYTES: usize = 64 << 10;

/// JSON may encode every byte of a text as `\u0041`; base64 needs far less.
const JSON_BYTES_PER_BYTE: usize = 6;

/// Bytes of a frame besides its payload: topic, key and field names, and a margin within which an oversized
/// payload gets an error reply instead of a close.
const FRAME_OVERHEAD_BYTES: usize = 64 << 10;

/// Maximum number of rejected connections that stay open until the client has read the response. Further ones
/// are closed at once.
const LINGERING_MAX: usize = 64;

/// The state that the sessions of a lane share. It stays on the thread of the lane.
pub(crate) struct LaneState {
    pub(crate) config: Arc<Config>,
    /// The limits of each session.
    pub(crate) limits: Rc<SessionLimits>,
    pub(crate) fanout: pushonce_fanout::Lane,
    pub(crate) publisher: Arc<dyn PublishRouter>,
    pub(crate) access: AccessControl,
    pub(crate) access_watch: AccessWatch,
    /// The caller of sessions without a token.
    without_token: Caller,
    /// Contains the settings of the namespaces.
    view: RefCell<watch::Receiver<Arc<ClusterView>>>,
    /// The largest payload of any namespace in the last seen view.
    payload_bytes_max: Cell<usize>,
    pub(crate) sessions: SessionRegistry,
    /// The read buffer. A task fills and reads it within one poll.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) reactor: Rc<Reactor>,
    pub(crate) tls: TlsLane,
    /// The file descriptors that connections may use.
    descriptors: DescriptorBudget,
    overflow: Rc<Overflow>,
    pub(crate) linger_permits: Arc<Semaphore>,
    pressure: Cell<Pressure>,
    pressure_limiter: LogLimiter,
    recent_shortages: RecentShortages,
    memory: MemoryUse,
    /// The limits that all lanes share.
    pub(crate) client_limits: ClientLimits,
    /// The start of the times of [`WorkMeter`](crate::work::WorkMeter).
    pub(crate) started_at: std::time::Instant,
    /// Cancelled when the lane stops accepting connections.
    pub(crate) draining: CancellationToken,
    pub(super) connections: TaskTracker,
}

/// The permits of one session that is no TCP connection, released with it.
pub(crate) struct SessionPermit {
    _address: AddressPermit,
    _connection: OwnedSemaphorePermit,
}

impl LaneState {
    /// Must be called on the runtime of the lane.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub(crate) fn new(
        config: Arc<Config>,
        fanout: pushonce_fanout::Lane,
        publisher: Arc<dyn PublishRouter>,
        access: AccessControl,
        memory: MemoryUse,
        client_limits: ClientLimits,
        draining: CancellationToken,
    ) -> io::Result<(LaneState, ReactorDriver)> {
        let limits = SessionLimits {
            publishes_max: config.publishes_max,
            // Two of the largest payloads, so that one pending publish does not cause rejection of the next.
            publish_bytes_max: 2 * Publish::PAYLOAD_BYTES_CAP,
        };
        let view = access.view();
        let payload_bytes_max = view.borrow().namespaces.payload_bytes_max();
        let (reactor, reactor_driver) = Reactor::new()?;
        let lane = LaneState {
            config,
            limits: Rc::new(limits),
            fanout,
            publisher,
            access_watch: AccessWatch::new(&access),
            without_token: access.without_token(),
            access,
            payload_bytes_max: Cell::new(payload_bytes_max),
            view: RefCell::new(view),
            sessions: SessionRegistry::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            metrics: GatewayMetrics::new(),
            reactor,
            tls: TlsLane::default(),
            descriptors: DescriptorBudget::for_process(),
            overflow: Rc::default(),
            linger_permits: Arc::new(Semaphore::new(LINGERING_MAX)),
            pressure: Cell::default(),
            pressure_limiter: LogLimiter::new(),
            recent_shortages: RecentShortages::default(),
            memory,
            client_limits,
            started_at: std::time::Instant::now(),
            draining,
            connections: TaskTracker::new(),
        };
        Ok((lane, reactor_driver))
    }

    /// Spawns a task of a session. It ends with the runtime of the lane at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// Spawns the task of a connection, for which the lane waits when it drains. Its log lines have the
    /// fields of `span`.
    pub(crate) fn spawn_connection(&self, span: Span, task: impl Future<Output = ()> + 'static) {
        // Idle sessions are many: a span that is off takes no memory.
        if span.is_disabled() {
            self.connections.spawn_local(task);
        } else {
            self.connections.spawn_local(task.instrument(span));
        }
    }

    /// Runs the task of a session with a socket, for which the lane waits when it drains. Its log lines have the
    /// fields of `span`.
    pub(crate) fn spawn_session(
        &self,
        key: SlotKey,
        span: Span,
        task: impl Future<Output = ()> + 'static,
    ) {
        let task = self.connections.track_future(task);
        if span.is_disabled() {
            self.reactor.spawn(key, task);
        } else {
            self.reactor.spawn(key, task.instrument(span));
        }
    }

    /// Whether a caller may do an action now, without counting a refusal.
    pub(crate) fn allows(&self, caller: Option<&Caller>, action: Action<'_>) -> bool {
        self.access.allows(caller.unwrap_or(&self.without_token), action)
    }

    /// Resolves the requested delivery by the current settings of the topic's namespace.
    ///
    /// # Errors
    /// [`DeliveryNotAllowed`] when the request exceeds the rate limit of the namespace.
    pub(crate) fn grant_delivery(
        &self,
        topic: &Topic,
        requested: Option<Delivery>,
    ) -> Result<Delivery, DeliveryNotAllowed> {
        self.view.borrow().borrow().namespaces.for_topic(topic).resolve_delivery(requested)
    }

    /// Maximum bytes of one frame from a client, after reassembly. A longer frame closes the session with
    /// [`TOO_BIG`](pushonce_proto::close::TOO_BIG).
    ///
    /// The largest payload of any namespace fits in any encoding. A payload slightly above the limit also
    /// fits, so that it is rejected with an error reply.
    pub(crate) fn frame_bytes_max(&self, encoding: Encoding) -> usize {
        let mut view = self.view.borrow_mut();
        if view.has_changed().unwrap_or(false) {
            let view = view.borrow_and_update();
            self.payload_bytes_max.set(view.namespaces.payload_bytes_max());
        }
        let bytes_per_byte = match encoding {
            Encoding::Json => JSON_BYTES_PER_BYTE,
            Encoding::Proto => 1,
        };
        bytes_per_byte * self.payload_bytes_max.get() + FRAME_OVERHEAD_BYTES
    }

    /// Updates the pressure level from the load, and runs the tick of the sessions that are due.
    pub(super) fn update_pressure(&self, load: &mut LoadTracker, admission: &LaneAdmission) {
        let backlog = pressure::permille(self.fanout.take_lag_max(), pressure::BACKLOG_MAX);
        let sessions = self.client_limits.open_connections(self.config.connections_max);
        let memory = self.memory.permille_for_sessions(sessions);
        let pressure = load.update(backlog.max(memory));
        if self.pressure.replace(pressure) != pressure {
            if let Some(suppressed) = self.pressure_limiter.allow(std::time::Instant::now()) {
                let memory_permille = self.memory.permille();
                tracing::warn!(
                    ?pressure,
                    backlog_permille = backlog,
                    memory_permille,
                    suppressed,
                    "overload level of a lane changed"
                );
            }
            let throttles = pressure >= Pressure::Throttle;
            self.fanout.set_latest_min_interval(if throttles {
                pressure::THROTTLE_INTERVAL
            } else {
                Duration::ZERO
            });
        }
        self.detect_shortages();
        self.check_access();
        admission.update(pressure, &self.recent_shortages, std::time::Instant::now());
        match pressure {
            Pressure::Normal | Pressure::Throttle | Pressure::Reject => self.sessions.tick(),
            Pressure::Shed => self.metrics.shed.increment(self.sessions.shed() as u64),
        }
    }

    /// Ends the sessions whose token or time is over.
    fn check_access(&self) {
        for (session, check) in self.access_watch.tick(self.access.now()) {
            if let Some(session) = self.sessions.get(session) {
                session.check_access(check);
            }
        }
        self.access_watch.sweep_subscriptions(self.sessions.slots(), |slot| {
            self.sessions.get(slot).map_or(0, |session| session.check_subscriptions())
        });
    }

    /// Ends a new session at its maximum age, if there is one.
    pub(crate) fn watch_age(&self, session: usize, age_max: Option<Duration>) {
        self.access_watch.set_age(session, self.access.now(), age_max);
    }

    /// Whether everyone may read the topic.
    pub(crate) fn is_public(&self, topic: &Topic) -> bool {
        let view = self.view.borrow();
        let view = view.borrow();
        self.is_open() || view.namespaces.for_topic(topic).access.anonymous_read
    }

    /// Detects a full node before the next client connects: load balancers send clients to nodes that report
    /// readiness.
    fn detect_shortages(&self) {
        let now = std::time::Instant::now();
        if self.client_limits.connections.available_permits() == 0 {
            self.recent_shortages.record(Shortage::Connections, now);
        }
        if !self.descriptors.has_room(ConnectionPurpose::Client) {
            self.recent_shortages.record(Shortage::Descriptors, now);
        }
    }

    /// Records that a new connection was rejected.
    fn reject(&self, shortage: Shortage) {
        self.metrics.count_rejected(shortage);
        self.recent_shortages.record(shortage, std::time::Instant::now());
    }

    /// Returns a token that counts as a connection until it is dropped.
    pub(crate) fn track_connection(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// Returns the permit of a new TCP connection, or the response to send instead.
    pub(super) fn admit(&self, stream: &TcpStream) -> Result<ConnectionPermit, &'static [u8]> {
        // A connection without an address is closed already.
        let address = stream.peer_addr().map(|address| address.ip());
        let address = address.map(|ip| self.admit_address(ip)).ok().transpose();
        let Ok(address_permit) = address else { return Err(connection::TOO_MANY_RESPONSE) };
        if !self.has_descriptor_for_client(stream) {
            self.reject(Shortage::Descriptors);
        } else if let Some(permit) = self.acquire_permit() {
            return Ok(ConnectionPermit::Regular { _permit: permit, _address: address_permit });
        }
        let has_probe_descriptor = self.descriptors.admits(ConnectionPurpose::Probe, stream);
        let permit = if has_probe_descriptor { self.overflow.admit() } else { None };
        permit.map(ConnectionPermit::Overflow).ok_or(connection::FULL_RESPONSE)
    }

    fn admit_address(&self, address: IpAddr) -> Result<AddressPermit, AddressRefusal> {
        let admitted = self.client_limits.addresses.admit(address, std::time::Instant::now());
        admitted.inspect_err(|&refusal| self.metrics.count_rejected_address(refusal))
    }

    /// Returns the permit of a session that is no TCP connection of its own: a QUIC connection, or an event
    /// stream that shares a connection of HTTP/2.
    pub(crate) fn admit_session(&self, address: IpAddr) -> Option<SessionPermit> {
        // The address may be forged: it pays for the connection, and its rate is not used up.
        let counted = self.client_limits.addresses.count(address);
        let counted = counted.inspect_err(|&refusal| self.metrics.count_rejected_address(refusal));
        Some(SessionPermit { _address: counted.ok()?, _connection: self.acquire_permit()? })
    }

    /// Whether the descriptor of a connection is within the budget of clients.
    pub(crate) fn has_descriptor_for_client(&self, stream: &impl AsRawFd) -> bool {
        self.descriptors.admits(ConnectionPurpose::Client, stream)
    }

    /// Returns the permit of a new session, or `None` under pressure or when all permits are in use.
    fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.pressure.get() >= Pressure::Reject {
            self.reject(Shortage::Load);
            return None;
        }
        let permit = self.client_limits.connections.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.reject(Shortage::Connections);
        }
        permit
    }
}

impl AccessGate for LaneState {
    fn is_open(&self) -> bool {
        self.without_token.is_unrestricted()
    }

    fn authorize(&self, caller: Option<&Caller>, action: Action<'_>) -> Result<(), AccessError> {
        self.access.authorize(caller.unwrap_or(&self.without_token), action)
    }

    fn expires_at(&self, caller: &Caller) -> Timestamp {
        caller.expires_at().unwrap_or_default()
    }
}

//! One thread that holds sessions: its runtime, its listener, its share of everything.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{ClusterView, Delivery, DeliveryNotAllowed, Publish, Topic};
use pushonce_listener::{ConnectionPurpose, DescriptorBudget, InfallibleListener};
use pushonce_proto::client::Encoding;
use pushonce_proto::close;
use pushonce_quic::{Endpoint, Listener};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[cfg(target_os = "linux")]
use crate::STUCK_INTERVALS;
use crate::admission::{LaneAdmission, RecentShortages};
use crate::connection::ConnectionPermit;
use crate::metrics::{GatewayMetrics, Shortage, TransportKind};
use crate::overflow::Overflow;
use crate::pressure::{self, LoadTracker, MemoryUse, Pressure};
use crate::quic::SessionAcceptor;
use crate::registry::{self, SessionRegistry};
use crate::session::SessionLimits;
use crate::{Backend, Config, LaneWatchdog, Publisher, connection, pin};

/// The lane's one buffer for reading, whoever is read: what a kernel hands over at once from a busy
/// client. Smaller means more reads of large frames, larger is never filled.
const SCRATCH_BYTES: usize = 64 << 10;

/// How many connections are taken in before everything else of the lane has its turn. The handshake of
/// one costs some 100 µs, as a turn of the fan-out's 256 offers costs a millisecond: in a storm the two
/// take turns, whoever is connected waits some milliseconds, and whoever is not, in the backlog.
const ACCEPTS_PER_TURN: usize = 16;

/// JSON may write every byte of a text as `\u0041`; base64 takes far less.
const JSON_BYTES_PER_BYTE: usize = 6;

/// Bytes of a frame beside its payload: the topic, the key and the names of the fields, and room to
/// answer a payload that is over its limit.
const FRAME_OVERHEAD_BYTES: usize = 64 << 10;

/// Connections that were turned away and are kept for as long as their client needs to read the
/// answer. One more is closed at once.
const LINGERING_MAX: usize = 64;

/// What the sessions of a lane share. Never leaves the lane's thread.
pub(crate) struct LaneState {
    pub(crate) config: Arc<Config>,
    /// Of each session.
    pub(crate) limits: Rc<SessionLimits>,
    pub(crate) fanout: pushonce_fanout::Lane,
    pub(crate) publisher: Arc<dyn Publisher>,
    /// Of the settings of the namespaces.
    view: RefCell<watch::Receiver<Arc<ClusterView>>>,
    /// By the view that was seen last.
    payload_bytes_max: Cell<usize>,
    pub(crate) sessions: SessionRegistry,
    /// Filled and read within one poll of one task.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) metrics: GatewayMetrics,
    /// Connections, over all lanes.
    pub(crate) connection_permits: Arc<Semaphore>,
    /// Which descriptors they may use.
    descriptors: DescriptorBudget,
    overflow: Rc<Overflow>,
    pub(crate) linger_permits: Arc<Semaphore>,
    pressure: Cell<Pressure>,
    recent_shortages: RecentShortages,
    memory: MemoryUse,
    /// Cancelled when the lane takes in nobody any more.
    pub(crate) draining: CancellationToken,
    connections: TaskTracker,
}

/// What a lane is made of.
pub(crate) struct LaneParts {
    pub(crate) config: Arc<Config>,
    pub(crate) backend: Backend,
    pub(crate) router: axum::Router,
    pub(crate) listener: std::net::TcpListener,
    /// Where QUIC comes in, if it does on this lane.
    pub(crate) quic: Option<Listener>,
    pub(crate) connection_permits: Arc<Semaphore>,
    pub(crate) memory: MemoryUse,
    pub(crate) watchdog: LaneWatchdog,
    pub(crate) admission: LaneAdmission,
}

/// Starts the thread of lane `index`. `ended` hears how it went; it is dropped if the lane panics.
pub(crate) fn spawn(
    index: usize,
    parts: LaneParts,
    shutdown: CancellationToken,
    result_sender: oneshot::Sender<io::Result<()>>,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("lane-{index}")).spawn(move || {
        if parts.config.pin_lanes {
            pin::pin(index, parts.config.lanes);
        }
        // Nobody listens when the gateway was dropped.
        let _ = result_sender.send(thread_main(index, parts, shutdown));
    })
}

fn thread_main(index: usize, parts: LaneParts, shutdown: CancellationToken) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(run(index, parts, shutdown))
}

async fn run(index: usize, parts: LaneParts, shutdown: CancellationToken) -> io::Result<()> {
    let LaneParts {
        config,
        backend,
        router,
        listener,
        quic,
        connection_permits,
        memory,
        watchdog,
        admission,
    } = parts;
    let Backend { hub, publisher, view, .. } = backend;
    let (fanout, driver) = hub.new_lane();
    let draining = shutdown.child_token();
    let lane = Rc::new(LaneState::new(
        config,
        fanout,
        publisher,
        view,
        connection_permits,
        memory,
        draining.clone(),
    ));
    let listener = InfallibleListener::new("http", TcpListener::from_std(listener)?);
    let quic = quic.map(|listener| open_quic(listener, &lane)).transpose()?;
    let stop = CancellationToken::new();
    lane.spawn(driver.run(stop.clone()));
    let mut quic = quic.map(|endpoint| {
        let run =
            endpoint.run(stop.clone(), close::GOING_AWAY.code.into(), "the server is going away");
        tokio::task::spawn_local(run)
    });
    let record_tick = || watchdog.record_tick(index);
    tokio::select! {
        () = accept_tcp(&lane, listener, router) => {}
        () = run_ticks(&lane, &admission, record_tick) => {}
        () = join_quic(&mut quic), if quic.is_some() => {}
        () = draining.cancelled() => {}
    }
    // Those whose turn to go has not come are served as before.
    tokio::select! {
        () = drain(&lane) => {}
        () = run_ticks(&lane, &admission, record_tick) => {}
    }
    stop.cancel();
    join_quic(&mut quic).await;
    Ok(())
}

fn open_quic(listener: Listener, lane: &Rc<LaneState>) -> io::Result<Endpoint<SessionAcceptor>> {
    let writes = lane.metrics.for_transport(TransportKind::Quic).writes.clone();
    Endpoint::open(listener, SessionAcceptor::new(lane.clone()), writes)
}

/// QUIC does not end before its lane is over, unless by a panic: that is the lane's then.
async fn join_quic(quic: &mut Option<JoinHandle<()>>) {
    let Some(task) = quic else { return };
    let result = task.await;
    *quic = None;
    if let Err(error) = result
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Sessions are told to go one by one, answers in flight are finished, within the grace time.
async fn drain(lane: &LaneState) {
    lane.connections.close();
    let grace = lane.config.grace;
    let drained = async {
        drain_sessions(lane).await;
        lane.connections.wait().await;
    };
    if tokio::time::timeout(grace, drained).await.is_err() {
        let remaining = lane.connections.len();
        tracing::warn!(remaining, ?grace, "connections were cut off: they did not end in time");
    }
}

/// Between two groups of sessions that are told to go: a hundred groups in the usual grace time.
const DRAIN_STEP_INTERVAL: Duration = Duration::from_millis(40);

/// Tells the sessions to go, spread over their part of the grace time.
async fn drain_sessions(lane: &LaneState) {
    let period = lane.config.grace * 4 / 5;
    let started_at = Instant::now();
    let mut notified = 0;
    loop {
        let due = registry::drain_slots_due(started_at.elapsed(), period);
        lane.sessions.drain(notified..due, period);
        notified = due;
        if due == registry::DRAIN_SLOTS || lane.sessions.is_empty() {
            return;
        }
        tokio::time::sleep(DRAIN_STEP_INTERVAL).await;
    }
}

async fn accept_tcp(lane: &Rc<LaneState>, listener: InfallibleListener, router: axum::Router) {
    for accepted in 1.. {
        if accepted % ACCEPTS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        serve_connection(lane, listener.accept().await, &router);
    }
}

fn serve_connection(lane: &Rc<LaneState>, stream: TcpStream, router: &axum::Router) {
    let Some(permit) = lane.admit(&stream) else { return connection::reject(lane, stream) };
    // A frame is whole when it is written; to wait for more only delays it. A failure means that
    // the connection is gone, which is noticed when it is read.
    let _ = stream.set_nodelay(true);
    set_stuck_timeout(&stream, lane.config.heartbeat);
    let task = connection::serve(lane.clone(), stream, router.clone(), permit);
    lane.connections.spawn_local(task);
}

/// Has the system end a connection whose client takes nothing any more. A session has its own
/// verdict one interval earlier, with a close code; an HTTP answer has only this, and would be held
/// for as long as its client cares to keep the connection.
#[cfg(target_os = "linux")]
fn set_stuck_timeout(stream: &TcpStream, heartbeat: Duration) {
    let timeout = heartbeat * u32::from(STUCK_INTERVALS + 1);
    // A failure means that the connection is gone.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(timeout));
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn limit_stuck(_: &TcpStream, _: Duration) {}

async fn run_ticks(lane: &LaneState, admission: &LaneAdmission, record_tick: impl Fn()) {
    let mut ticks = tokio::time::interval(SessionRegistry::tick_interval(lane.config.heartbeat));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut load = LoadTracker::default();
    loop {
        ticks.tick().await;
        lane.update_pressure(&mut load, admission);
        record_tick();
    }
}

// === impl Local ===

impl LaneState {
    pub(crate) fn new(
        config: Arc<Config>,
        fanout: pushonce_fanout::Lane,
        publisher: Arc<dyn Publisher>,
        view: watch::Receiver<Arc<ClusterView>>,
        connection_permits: Arc<Semaphore>,
        memory: MemoryUse,
        draining: CancellationToken,
    ) -> LaneState {
        let limits = SessionLimits {
            publishes_max: config.publishes_max,
            // Two of the largest: one that waits does not refuse the next.
            publish_bytes_max: 2 * Publish::PAYLOAD_BYTES_CAP,
        };
        let payload_bytes_max = view.borrow().namespaces.payload_bytes_max();
        LaneState {
            config,
            limits: Rc::new(limits),
            fanout,
            publisher,
            payload_bytes_max: Cell::new(payload_bytes_max),
            view: RefCell::new(view),
            sessions: SessionRegistry::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            metrics: GatewayMetrics::new(),
            connection_permits,
            descriptors: DescriptorBudget::for_process(),
            overflow: Rc::default(),
            linger_permits: Arc::new(Semaphore::new(LINGERING_MAX)),
            pressure: Cell::default(),
            recent_shortages: RecentShortages::default(),
            memory,
            draining,
            connections: TaskTracker::new(),
        }
    }

    /// Runs a task of a session. It ends with the lane's runtime at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// Runs a connection: the lane waits for it when it takes its leave.
    pub(crate) fn spawn_connection(&self, task: impl Future<Output = ()> + 'static) {
        self.connections.spawn_local(task);
    }

    /// What a session gets of what it asks for, as the topic's namespace is now.
    pub(crate) fn grant_delivery(
        &self,
        topic: &Topic,
        requested: Option<Delivery>,
    ) -> Result<Delivery, DeliveryNotAllowed> {
        self.view.borrow().borrow().namespaces.for_topic(topic).resolve_delivery(requested)
    }

    /// Bytes of one frame from a client, after its fragments were joined. More closes the session with
    /// [`TOO_BIG`](pushonce_proto::close::TOO_BIG).
    ///
    /// The largest payload of any namespace fits, however it is written, and so does one that is a
    /// little over: it is refused in words.
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

    /// Does what the load asks for, and gives the sessions whose turn it is their beat.
    fn update_pressure(&self, load: &mut LoadTracker, admission: &LaneAdmission) {
        let backlog = pressure::permille(self.fanout.take_lag_max(), pressure::BACKLOG_MAX);
        let pressure = load.update(backlog.max(self.memory.permille()));
        if self.pressure.replace(pressure) != pressure {
            tracing::warn!(pressure = ?pressure, backlog, memory = self.memory.permille(), "load changed");
            let throttles = pressure >= Pressure::Throttle;
            self.fanout.set_latest_min_interval(if throttles {
                pressure::THROTTLE_INTERVAL
            } else {
                Duration::ZERO
            });
        }
        self.detect_shortages();
        admission.update(pressure, &self.recent_shortages, std::time::Instant::now());
        match pressure {
            Pressure::Normal | Pressure::Throttle | Pressure::Reject => self.sessions.tick(),
            Pressure::Shed => self.metrics.shed.increment(self.sessions.shed() as u64),
        }
    }

    /// Notices a node that is full before the next client does: clients are sent to a node that is ready.
    fn detect_shortages(&self) {
        let now = std::time::Instant::now();
        if self.connection_permits.available_permits() == 0 {
            self.recent_shortages.record(Shortage::Connections, now);
        }
        if !self.descriptors.has_room(ConnectionPurpose::Client) {
            self.recent_shortages.record(Shortage::Descriptors, now);
        }
    }

    /// A new connection is rejected.
    fn reject(&self, shortage: Shortage) {
        self.metrics.count_rejected(shortage);
        self.recent_shortages.record(shortage, std::time::Instant::now());
    }

    /// Counts as a connection until it is dropped.
    pub(crate) fn track_connection(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// The permit of one more connection over TCP.
    fn admit(&self, stream: &impl AsRawFd) -> Option<ConnectionPermit> {
        if !self.has_descriptor_for_client(stream) {
            self.reject(Shortage::Descriptors);
        } else if let Some(permit) = self.acquire_permit() {
            return Some(ConnectionPermit::Regular { _permit: permit });
        }
        let has_probe_descriptor = self.descriptors.admits(ConnectionPurpose::Probe, stream);
        let permit = if has_probe_descriptor { self.overflow.admit() } else { None };
        permit.map(ConnectionPermit::Overflow)
    }

    /// Whether the descriptor of a connection is one that clients may keep.
    pub(crate) fn has_descriptor_for_client(&self, stream: &impl AsRawFd) -> bool {
        self.descriptors.admits(ConnectionPurpose::Client, stream)
    }

    /// The permit of one more session.
    pub(crate) fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.pressure.get() >= Pressure::Reject {
            self.reject(Shortage::Load);
            return None;
        }
        let permit = self.connection_permits.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.reject(Shortage::Connections);
        }
        permit
    }
}

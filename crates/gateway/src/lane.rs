//! A lane: one thread with its own runtime and listeners, and the sessions that it serves.

mod state;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_listener::InfallibleListener;
use pushonce_proto::close;
use pushonce_quic::{Endpoint, Listener};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

#[cfg(target_os = "linux")]
use crate::STUCK_INTERVALS;
use crate::admission::LaneAdmission;
use crate::http::front::HttpFront;
use crate::http::page_gate::PageGate;
use crate::metrics::TransportKind;
use crate::pressure::{LoadTracker, MemoryUse};
use crate::quic::SessionAcceptor;
use crate::registry::{self, SessionRegistry};
use crate::slow_sessions::{self, InspectRequest};
use crate::{Backend, ClientLimits, Config, HttpsSettings, LaneWatchdog, connection, pin};

pub(crate) use state::{LaneState, SessionPermit};

/// How many connections are accepted before the other tasks of the lane run. A handshake costs about 100 µs,
/// and a turn of 256 fan-out offers about a millisecond. In a connection storm the two alternate: connected
/// clients wait some milliseconds, new ones wait in the backlog.
const ACCEPTS_PER_TURN: usize = 16;

/// The parts from which a lane is built.
pub(crate) struct LaneParts {
    pub(crate) config: Arc<Config>,
    pub(crate) backend: Backend,
    pub(crate) http: HttpFront,
    pub(crate) listener: std::net::TcpListener,
    /// The listener of HTTP and WebSocket with TLS.
    pub(crate) https: Option<(std::net::TcpListener, (HttpsSettings, HttpFront))>,
    /// The QUIC listener of the lane; `None` when QUIC is served by other lanes only.
    pub(crate) quic: Option<Listener>,
    /// Checks the pages that open WebTransport sessions.
    pub(crate) webtransport: PageGate,
    pub(crate) memory: MemoryUse,
    pub(crate) client_limits: ClientLimits,
    pub(crate) watchdog: LaneWatchdog,
    pub(crate) admission: LaneAdmission,
    /// Requests for the slow sessions of the lane.
    pub(crate) inspect_requests: mpsc::Receiver<InspectRequest>,
}

/// Starts the thread of lane `index`. `result_sender` receives the result; it is dropped if the lane panics.
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
        // Sending fails only when the gateway was dropped.
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
        http,
        listener,
        https,
        quic,
        webtransport,
        memory,
        client_limits,
        watchdog,
        admission,
        inspect_requests,
    } = parts;
    let Backend { hub, publisher, access, .. } = backend;
    let (fanout, driver) = hub.new_lane();
    let draining = shutdown.child_token();
    let (lane, reactor_driver) =
        LaneState::new(config, fanout, publisher, access, memory, client_limits, draining.clone())?;
    let lane = Rc::new(lane);
    let listener = InfallibleListener::new("http", TcpListener::from_std(listener)?);
    let https = https.map(|(listener, settings)| {
        io::Result::Ok((
            InfallibleListener::new("https", TcpListener::from_std(listener)?),
            settings,
        ))
    });
    let https = https.transpose()?;
    let quic = quic.map(|listener| open_quic(listener, &lane, webtransport)).transpose()?;
    let stop = CancellationToken::new();
    lane.spawn(driver.run(stop.clone()));
    let mut reactor = tokio::task::spawn_local(reactor_driver.run());
    lane.spawn(slow_sessions::serve(index, lane.clone(), inspect_requests));
    let mut quic = quic.map(|endpoint| {
        let run =
            endpoint.run(stop.clone(), close::GOING_AWAY.code.into(), "the server is going away");
        tokio::task::spawn_local(run)
    });
    let record_tick = || watchdog.record_tick(index);
    tokio::select! {
        () = accept_plain(&lane, &listener, &http) => {}
        () = accept_tls(&lane, https.as_ref()) => {}
        () = run_ticks(&lane, &admission, record_tick) => {}
        () = join_quic(&mut quic), if quic.is_some() => {}
        ended = &mut reactor => return propagate_panic(ended).unwrap_or(Ok(())),
        () = draining.cancelled() => {}
    }
    // Sessions that are not yet due to be drained are served as before.
    tokio::select! {
        () = drain(&lane) => {}
        () = run_ticks(&lane, &admission, record_tick) => {}
    }
    stop.cancel();
    join_quic(&mut quic).await;
    Ok(())
}

fn open_quic(
    listener: Listener,
    lane: &Rc<LaneState>,
    webtransport: PageGate,
) -> io::Result<Endpoint<SessionAcceptor>> {
    let writes = lane.metrics.for_transport(TransportKind::Quic).writes.clone();
    Endpoint::open(listener, SessionAcceptor::new(lane.clone(), webtransport), writes)
}

/// Waits for the QUIC task. It ends only when its lane stops or when it panics; the panic is propagated to
/// the lane.
async fn join_quic(quic: &mut Option<JoinHandle<()>>) {
    let Some(task) = quic else { return };
    let ended = task.await;
    *quic = None;
    propagate_panic(ended);
}

/// Returns the result of a task, unless it was cancelled, and continues its panic.
fn propagate_panic<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(result) => Some(result),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => None,
    }
}

/// Drains the sessions one by one and finishes pending responses, within the grace time.
async fn drain(lane: &LaneState) {
    lane.connections.close();
    let grace = lane.config.grace;
    let drained = async {
        drain_sessions(lane).await;
        lane.connections.wait().await;
    };
    if tokio::time::timeout(grace, drained).await.is_err() {
        let remaining = lane.connections.len();
        tracing::warn!(remaining, ?grace, "connections did not end in time, closed them");
    }
}

/// The interval between two groups of drained sessions: a hundred groups in the default grace time.
const DRAIN_STEP_INTERVAL: Duration = Duration::from_millis(40);

/// Drains all sessions, spread over four fifths of the grace time.
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

/// Accepts connections without TLS. Never returns.
async fn accept_plain(lane: &Rc<LaneState>, listener: &InfallibleListener, http: &HttpFront) {
    accept(listener, |stream| {
        let permit = match lane.admit(&stream) {
            Ok(permit) => permit,
            Err(response) => return connection::reject(lane, stream, response),
        };
        prepare(lane, &stream);
        let task = connection::serve(lane.clone(), stream, http.clone(), permit);
        lane.connections.spawn_local(task);
    })
    .await;
}

/// Accepts connections with TLS. Never returns. Without a permit a connection is closed at once: the response
/// would need a handshake.
async fn accept_tls(
    lane: &Rc<LaneState>,
    https: Option<&(InfallibleListener, (HttpsSettings, HttpFront))>,
) {
    let Some((listener, (settings, http))) = https else { return std::future::pending().await };
    accept(listener, |stream| {
        let Ok(permit) = lane.admit(&stream) else { return };
        prepare(lane, &stream);
        let (lane_state, settings) = (lane.clone(), settings.clone());
        let task = connection::serve_tls(lane_state, stream, settings, http.clone(), permit);
        lane.connections.spawn_local(task);
    })
    .await;
}

async fn accept(listener: &InfallibleListener, mut serve: impl FnMut(TcpStream)) {
    for accepted in 1.. {
        if accepted % ACCEPTS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        serve(listener.accept().await);
    }
}

/// Sets the options of a new connection.
fn prepare(lane: &LaneState, stream: &TcpStream) {
    // Frames are written whole; waiting for more data would only delay them. A failure means that the
    // connection is gone, which the next read detects.
    let _ = stream.set_nodelay(true);
    set_stuck_timeout(stream, lane.config.heartbeat);
}

/// Lets the system end a connection whose client receives nothing. A session is closed one interval earlier,
/// with a close code. An HTTP response has only this limit; without it, a client could hold the response
/// indefinitely.
#[cfg(target_os = "linux")]
fn set_stuck_timeout(stream: &TcpStream, heartbeat: Duration) {
    let timeout = heartbeat * u32::from(STUCK_INTERVALS + 1);
    // A failure means that the connection is gone.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(timeout));
}

/// Does nothing: other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn set_stuck_timeout(_: &TcpStream, _: Duration) {}

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

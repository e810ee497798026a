//! The access decisions of one node: its authenticator, its tickets, and the newest state of the cluster.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pushonce_core::{AccessToken, ClientAddress, ClusterView, NodeId, Timestamp, Topic};
use pushonce_listener::FailedAttempts;
use tokio::sync::watch;

use crate::metrics::{ATTEMPTS_REJECTED, REFUSED};
use crate::tickets::{InvalidTicket, NoPeers, Ticket, Tickets};
use crate::{Action, AuthenticationError, Authenticator, Caller, Denied, authorize};

/// Authenticates callers and decides what they may do, by the newest state of the cluster. Clones share it.
#[derive(Clone)]
pub struct AccessControl(Arc<AccessInner>);

struct AccessInner {
    authenticator: Authenticator,
    /// Contains the namespaces and the revocations.
    view: watch::Receiver<Arc<ClusterView>>,
    token_grace: Duration,
    tickets: Tickets,
    failed_attempts: FailedAttempts,
    clock: Clock,
}

/// The present time. It is passed in, so that tests can set it.
pub type Clock = fn() -> Timestamp;

/// Why a request is refused. Each text says what to change; none contains a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The token is not valid, or cannot be verified now.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// The ticket is not valid, or cannot be redeemed now.
    #[error(transparent)]
    Ticket(#[from] InvalidTicket),
    /// The token expired, and the grace is over.
    #[error("the token has expired; send a new one")]
    Expired,
    /// The token, its subject or its time of issue was revoked.
    #[error("the token was revoked; ask its issuer for a new one")]
    Revoked,
    /// The issuer or the key that verified the token was removed.
    #[error("the key that signed the token is no longer accepted; ask its issuer for a new token")]
    KeyRemoved,
    /// Too many credentials of the address were not valid, so this one was not read.
    #[error(
        "too many tokens of your address are not valid; retry in {retry_after:?} with a valid one"
    )]
    TooManyFailures {
        /// How long the client has to wait.
        retry_after: Duration,
    },
    /// The token does not grant the request.
    #[error(transparent)]
    Denied(#[from] Denied),
}

/// What a refused caller has to do, for the error codes of the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It sends a token.
    TokenRequired,
    /// It sends another token: this one is not valid.
    InvalidToken,
    /// It sends a newer token.
    Expired,
    /// It needs more grants.
    NotAllowed,
    /// It repeats the request later.
    Unavailable,
    /// It waits ([`AccessError::retry_after`]), and sends a valid token.
    TooManyFailures,
}

impl AccessControl {
    /// The default time after its expiry for which a token is still accepted: longer than the clocks of
    /// hosts with NTP differ, and than a renewal takes.
    pub const TOKEN_GRACE_DEFAULT: Duration = Duration::from_secs(10);
    /// The longest such time. A session ends within it after the expiry of its token.
    pub const TOKEN_GRACE_MAX: Duration = Duration::from_secs(25);
    /// Maximum time between two comparisons of an expiry with the clock. The timers of the runtime do not follow
    /// when the clock is set, or when a virtual machine was paused.
    const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(5);

    /// The access control of a node. `peers` redeems the tickets of other nodes.
    pub fn new(
        authenticator: Authenticator,
        view: watch::Receiver<Arc<ClusterView>>,
        token_grace: Duration,
        tickets: Tickets,
    ) -> AccessControl {
        AccessControl::with_clock(authenticator, view, token_grace, tickets, system_time)
    }

    /// As [`AccessControl::new`], with another clock.
    pub fn with_clock(
        authenticator: Authenticator,
        view: watch::Receiver<Arc<ClusterView>>,
        token_grace: Duration,
        tickets: Tickets,
        clock: Clock,
    ) -> AccessControl {
        let token_grace = token_grace.min(Self::TOKEN_GRACE_MAX);
        AccessControl(Arc::new(AccessInner {
            authenticator,
            view,
            token_grace,
            tickets,
            failed_attempts: FailedAttempts::default(),
            clock,
        }))
    }

    /// The access control of a node without issuers: every caller may do everything.
    pub fn open(view: watch::Receiver<Arc<ClusterView>>) -> AccessControl {
        let tickets = Tickets::new(NodeId(0), Arc::new(NoPeers));
        AccessControl::new(Authenticator::open(), view, Self::TOKEN_GRACE_DEFAULT, tickets)
    }

    /// Whether no issuer is configured, so that tokens are neither needed nor verified.
    pub fn is_open(&self) -> bool {
        self.without_token().is_unrestricted()
    }

    /// The caller of a request without a token.
    pub fn without_token(&self) -> Caller {
        self.0.authenticator.without_token()
    }

    /// Verifies a token that came from `address`. Its caller is neither expired nor revoked now.
    ///
    /// # Errors
    /// [`AccessError`] when the token is not valid, its issuer's keys cannot be fetched, or too many tokens of the
    /// address were not valid.
    pub async fn authenticate(
        &self,
        token: &AccessToken,
        address: ClientAddress,
    ) -> Result<Caller, AccessError> {
        let authenticator = &self.0.authenticator;
        self.attempt(address, async { Ok(authenticator.authenticate(token.secret()).await?) }).await
    }

    /// Runs an authentication, unless too many of the address failed. Only a credential that anyone could have made counts
    /// as a failure: clients behind one address share it, and an expired or revoked token of one must not delay the
    /// others. An issuer that cannot be reached is not the client's fault.
    async fn attempt(
        &self,
        address: ClientAddress,
        authentication: impl Future<Output = Result<Caller, AccessError>>,
    ) -> Result<Caller, AccessError> {
        let attempts = &self.0.failed_attempts;
        if let Err(retry_after) = attempts.check(address, Instant::now()) {
            ATTEMPTS_REJECTED.register_counter(&[]).increment(1);
            return Err(AccessError::TooManyFailures { retry_after });
        }
        let result = authentication.await.and_then(|caller| {
            self.check_valid(&caller)?;
            Ok(caller)
        });
        if result.as_ref().is_err_and(AccessError::is_guess) {
            attempts.record(address, Instant::now());
        }
        result
    }

    /// Decides whether `caller` may do `action` now: its token is still valid, and grants it.
    ///
    /// # Errors
    /// [`AccessError`] with the reason.
    pub fn authorize(&self, caller: &Caller, action: Action<'_>) -> Result<(), AccessError> {
        self.decide(caller, action)
            .inspect_err(|_| REFUSED.register_counter(&[action.name()]).increment(1))
    }

    /// Refuses a caller without a token, for a request that no namespace allows without one and whose topic is not
    /// known yet. `action` names it.
    ///
    /// # Errors
    /// [`Denied::TokenRequired`].
    pub fn require_token(&self, caller: &Caller, action: &'static str) -> Result<(), AccessError> {
        if !caller.is_anonymous() {
            return Ok(());
        }
        REFUSED.register_counter(&[action]).increment(1);
        Err(Denied::TokenRequired { action: action.to_owned() }.into())
    }

    /// Whether `caller` may do `action` now, to show it more or less. It does not count as a refusal.
    pub fn allows(&self, caller: &Caller, action: Action<'_>) -> bool {
        self.decide(caller, action).is_ok()
    }

    fn decide(&self, caller: &Caller, action: Action<'_>) -> Result<(), AccessError> {
        self.check_valid(caller)?;
        Ok(authorize(caller, action, &self.0.view.borrow().namespaces)?)
    }

    /// Whether the token of a caller is neither expired nor revoked, and its issuer still has its key.
    ///
    /// # Errors
    /// [`AccessError::Expired`], [`AccessError::Revoked`] or [`AccessError::KeyRemoved`].
    pub fn check_valid(&self, caller: &Caller) -> Result<(), AccessError> {
        let Some(facts) = caller.token_facts() else { return Ok(()) };
        let now = self.now();
        if self.valid_until(caller).is_some_and(|until| now >= until) {
            return Err(AccessError::Expired);
        }
        if self.0.view.borrow().revocations.is_revoked(&facts) {
            return Err(AccessError::Revoked);
        }
        if !self.0.authenticator.accepts_key_of(caller) {
            return Err(AccessError::KeyRemoved);
        }
        Ok(())
    }

    /// When the token of a caller is no longer accepted: its expiry and the grace. `None` without a token.
    pub fn valid_until(&self, caller: &Caller) -> Option<Timestamp> {
        let grace_ms = u64::try_from(self.0.token_grace.as_millis()).unwrap_or(u64::MAX);
        caller.expires_at().map(|expiry| Timestamp(expiry.0.saturating_add(grace_ms)))
    }

    /// Waits until the token of a caller is expired or revoked, or its key removed. Without a token it never returns. For streams
    /// that outlive their request; sessions have one timer for all.
    pub async fn wait_until_invalid(&self, caller: &Caller) -> AccessError {
        self.wait_until_error(caller, || self.check_valid(caller)).await
    }

    /// Waits until a caller may no longer do `action`: its token is expired or revoked, its key removed, or the namespace
    /// no longer open to everyone. Where everything is allowed, it never returns.
    pub async fn wait_until_refused(&self, caller: &Caller, action: Action<'_>) -> AccessError {
        if caller.is_unrestricted() {
            return std::future::pending().await;
        }
        self.wait_until_error(caller, || self.decide(caller, action)).await
    }

    /// Repeats `check` when the view or the keys have changed or the token of `caller` may have expired, until it fails.
    async fn wait_until_error(
        &self,
        caller: &Caller,
        check: impl Fn() -> Result<(), AccessError>,
    ) -> AccessError {
        let mut view = self.0.view.clone();
        let mut keys = self.key_changes();
        loop {
            view.mark_unchanged();
            keys.mark_unchanged();
            if let Err(error) = check() {
                return error;
            }
            tokio::select! {
                () = self.wait_until_clock_check(caller) => {}
                // Without a sender the node is about to stop, and the expiry remains.
                () = next_change(&mut view) => {}
                () = next_change(&mut keys) => {}
            }
        }
    }

    /// Waits until the expiry of a token is to be compared with the clock; without a token it never returns.
    async fn wait_until_clock_check(&self, caller: &Caller) {
        let Some(until) = self.valid_until(caller) else { return std::future::pending().await };
        let remaining = Duration::from_millis(until.0.saturating_sub(self.now().0));
        tokio::time::sleep(remaining.min(Self::CLOCK_CHECK_INTERVAL)).await;
    }

    /// How many messages a second one caller may publish to the namespace of `topic` at this node, if there is a
    /// limit.
    pub fn publish_rate_max(&self, topic: &Topic) -> Option<NonZeroU32> {
        self.0.view.borrow().namespaces.for_topic(topic).access.publish_rate_max
    }

    /// The version of the revocations that this node knows. When it changes, live sessions are checked again.
    pub fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.0.view.clone()
    }

    /// Notifies of changes of the keys of issuers. Then live sessions are checked again, too.
    pub fn key_changes(&self) -> watch::Receiver<()> {
        self.0.authenticator.key_changes()
    }

    /// The present time by the clock of this access control.
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// The tickets of this node.
    pub fn tickets(&self) -> &Tickets {
        &self.0.tickets
    }

    /// Redeems a ticket of any node of the cluster, which came from `address`. Its caller is neither expired nor
    /// revoked now.
    ///
    /// # Errors
    /// [`AccessError::Ticket`] when the ticket is malformed, used, older than 30 seconds, or its node cannot be
    /// reached; [`AccessError::TooManyFailures`].
    pub async fn redeem(
        &self,
        ticket: &Ticket,
        address: ClientAddress,
    ) -> Result<Caller, AccessError> {
        let AccessInner { tickets, authenticator, .. } = &*self.0;
        let redeemed = async {
            let caller = tickets.redeem(ticket, self.now()).await?;
            authenticator.refresh_unknown_key(&caller).await;
            Ok(caller)
        };
        self.attempt(address, redeemed).await
    }
}

impl AccessError {
    /// What the caller has to do.
    pub fn kind(&self) -> RefusalKind {
        match self {
            AccessError::Authentication(AuthenticationError::KeysUnavailable) => {
                RefusalKind::Unavailable
            }
            AccessError::Authentication(AuthenticationError::Expired) => RefusalKind::Expired,
            AccessError::Ticket(InvalidTicket::Unavailable { .. }) => RefusalKind::Unavailable,
            AccessError::Authentication(_)
            | AccessError::Ticket(_)
            | AccessError::Revoked
            | AccessError::KeyRemoved => RefusalKind::InvalidToken,
            AccessError::Expired => RefusalKind::Expired,
            AccessError::TooManyFailures { .. } => RefusalKind::TooManyFailures,
            AccessError::Denied(denied) if denied.is_token_required() => RefusalKind::TokenRequired,
            AccessError::Denied(_) => RefusalKind::NotAllowed,
        }
    }

    /// Whether anyone could have made the credential.
    fn is_guess(&self) -> bool {
        match self {
            AccessError::Authentication(error) => error.is_guess(),
            AccessError::Ticket(InvalidTicket::Malformed | InvalidTicket::Unknown) => true,
            AccessError::Ticket(InvalidTicket::Unavailable { .. } | InvalidTicket::TooMany)
            | AccessError::Expired
            | AccessError::Revoked
            | AccessError::KeyRemoved
            | AccessError::TooManyFailures { .. }
            | AccessError::Denied(_) => false,
        }
    }

    /// How long the client has to wait, where this is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            AccessError::TooManyFailures { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessControl").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

async fn next_change<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

/// The time of the system.
fn system_time() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "access_control/access_control_test.rs"]
mod access_control_test;

//! The audit log: who changed the cluster, and who was refused. Target `audit`.
//!
//! Changes of the cluster are always logged. Refusals are sampled, because a stranger can cause any number of
//! them. No line contains a payload or a token.

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use pushonce_core::CallerKey;
use pushonce_telemetry::LogLimiter;

use crate::{AccessError, Caller, Denied};

/// A caller and the address from which it calls.
#[derive(Clone, Debug)]
pub struct Requester {
    /// The caller.
    pub caller: Caller,
    /// The address; `None` when the connection has ended.
    pub address: Option<IpAddr>,
}

impl Requester {
    /// The caller that limits are charged to.
    pub fn key(&self) -> CallerKey {
        self.caller.key(self.address.into())
    }
}

/// Logs a change of the cluster and its outcome.
pub fn record_change(by: &Requester, change: &str, outcome: Result<(), &dyn fmt::Display>) {
    let Requester { caller, address } = by;
    let (subject, issuer, token_id) = (caller.subject(), caller.issuer(), caller.token_id());
    match outcome {
        Ok(()) => tracing::info!(
            target: "audit", subject, issuer, token_id, ?address, change, "changed the cluster"
        ),
        Err(error) => tracing::info!(
            target: "audit", subject, issuer, token_id, ?address, change, %error,
            "a change of the cluster failed"
        ),
    }
}

/// Logs a refused request or token, at most one of each kind in ten seconds.
pub fn record_refusal(caller: &Caller, address: Option<IpAddr>, error: &AccessError) {
    static DENIED: LogLimiter = LogLimiter::new();
    static UNAUTHENTICATED: LogLimiter = LogLimiter::new();
    let limiter = match error {
        AccessError::Denied(Denied::TokenRequired { .. }) => &UNAUTHENTICATED,
        AccessError::Denied(_) => &DENIED,
        _ => &UNAUTHENTICATED,
    };
    if let Some(suppressed) = limiter.allow(Instant::now()) {
        let (subject, issuer, token_id) = (caller.subject(), caller.issuer(), caller.token_id());
        tracing::info!(
            target: "audit", subject, issuer, token_id, ?address, reason = ?error.to_string(),
            suppressed, "refused a request"
        );
    }
}

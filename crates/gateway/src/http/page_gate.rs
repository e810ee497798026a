//! Counts and logs what the [`PagePolicy`] of a listener rejects.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use pushonce_telemetry::LogLimiter;

use super::authority::Authority;
use super::page_policy::{PagePolicy, PageRejection};
use super::request_check::RequestRejection;
use crate::metrics;

/// The policy of a listener, and the limit of its log lines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PageGate {
    pub(super) policy: Arc<PagePolicy>,
    rejection_limiter: Arc<LogLimiter>,
}

impl PageGate {
    pub(crate) fn new(policy: PagePolicy) -> PageGate {
        PageGate { policy: Arc::new(policy), rejection_limiter: Arc::new(LogLimiter::new()) }
    }

    /// Checks a request over TLS that was parsed elsewhere. `authority`: the host that it names.
    ///
    /// # Errors
    /// [`RequestRejection`] when the page or the host may not use the node.
    pub(crate) fn check(
        &self,
        authority: &str,
        headers: &HeaderMap,
    ) -> Result<(), RequestRejection> {
        let result = match Authority::parse(authority) {
            Some(host) => self.policy.evaluate(Some(host), headers, true).map_err(Into::into),
            None => Err(RequestRejection::HostSyntax),
        };
        result.map(|_| ()).inspect_err(|rejection| self.record(rejection))
    }

    /// Counts a rejection, and logs one that an operator may have to act on: the browser shows its user only a failed
    /// request.
    pub(super) fn record(&self, rejection: &RequestRejection) {
        metrics::REQUESTS_REJECTED.register_counter(&[rejection.reason()]).increment(1);
        let RequestRejection::Page(rejection) = rejection else { return };
        let Some(suppressed) = self.rejection_limiter.allow(Instant::now()) else { return };
        match rejection {
            PageRejection::Origin { origin } => tracing::warn!(
                ?origin,
                suppressed,
                "rejected a request of a page whose origin is not in --origins"
            ),
            PageRejection::Host { host } => tracing::warn!(
                ?host,
                suppressed,
                "rejected a request for a host name that is unknown on a loopback address"
            ),
        }
    }
}

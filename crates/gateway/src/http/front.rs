//! What stands before the routes of an HTTP listener: the checks of every request and the headers of every
//! response.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::response::Response;
use http::Request;
use pushonce_telemetry::LogLimiter;

use super::cors;
use super::framing::RequestFraming;
use super::page_policy::{PageAccess, PagePolicy, PageRejection};
use super::request_check::{self, RequestRejection};
use crate::metrics;

/// The routes of a listener and its policy. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpFront {
    pub(crate) router: Router,
    page_policy: Arc<PagePolicy>,
    rejection_limiter: Arc<LogLimiter>,
}

impl HttpFront {
    pub(crate) fn new(router: Router, page_policy: PagePolicy) -> HttpFront {
        let rejection_limiter = Arc::new(LogLimiter::new());
        HttpFront { router, page_policy: Arc::new(page_policy), rejection_limiter }
    }

    /// Checks a request, the `number`th of its connection. `is_tls`: it came over TLS.
    ///
    /// # Errors
    /// The response to a request that is rejected.
    pub(crate) fn admit<B>(
        &self,
        request: &Request<B>,
        number: u64,
        framing: &RefCell<RequestFraming>,
        is_tls: bool,
    ) -> Result<PageAccess, Box<Response>> {
        let result = match framing.borrow().violation(number) {
            Some(violation) => Err(RequestRejection::from(violation)),
            None => request_check::check(request, &self.page_policy, is_tls),
        };
        result.map_err(|rejection| {
            metrics::REQUESTS_REJECTED.register_counter(&[rejection.reason()]).increment(1);
            self.log(&rejection);
            Box::new(rejection.into_response(&self.page_policy))
        })
    }

    /// Adds the headers of every response.
    pub(crate) fn finish(&self, response: Response, access: &PageAccess) -> Response {
        cors::add_headers(response, access, &self.page_policy)
    }

    /// Logs a rejection that an operator may have to act on: the browser shows its user only a failed request.
    fn log(&self, rejection: &RequestRejection) {
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

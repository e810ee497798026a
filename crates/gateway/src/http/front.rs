//! What stands before the routes of an HTTP listener: the checks of every request and the headers of every
//! response.

use std::cell::RefCell;

use axum::Router;
use axum::response::Response;
use http::Request;

use super::cors;
use super::framing::RequestFraming;
use super::page_gate::PageGate;
use super::page_policy::{PageAccess, PagePolicy};
use super::request_check::{self, RequestRejection};

/// The routes of a listener and its policy. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpFront {
    pub(crate) router: Router,
    gate: PageGate,
}

impl HttpFront {
    pub(crate) fn new(router: Router, page_policy: PagePolicy) -> HttpFront {
        HttpFront { router, gate: PageGate::new(page_policy) }
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
            None => request_check::check(request, &self.gate.policy, is_tls),
        };
        result.map_err(|rejection| {
            self.gate.record(&rejection);
            Box::new(rejection.into_response(&self.gate.policy))
        })
    }

    /// Adds the headers of every response.
    pub(crate) fn finish(&self, response: Response, access: &PageAccess) -> Response {
        cors::add_headers(response, access, &self.gate.policy)
    }
}

//! The pages of a node beside the topics. A page cannot exist without the rule who may read it.

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::MethodRouter;
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use pushonce_auth::{AccessControl, Action};

use crate::SameOriginOnly;
use crate::http::authenticate;

/// Who may read a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAccess {
    /// Everyone: a file of the program, or the health of the node.
    Everyone,
    /// Callers that may do this: internals of the cluster, which pages of other origins cannot read.
    Requires(Action<'static>),
}

/// The pages of a node, each with its path and its rule.
#[derive(Clone, Default)]
pub struct Pages(Vec<Page>);

#[derive(Clone)]
struct Page {
    path: &'static str,
    access: PageAccess,
    route: MethodRouter,
}

impl Pages {
    /// No pages.
    pub fn new() -> Pages {
        Pages::default()
    }

    /// Adds a page.
    pub fn page(mut self, path: &'static str, access: PageAccess, route: MethodRouter) -> Pages {
        self.0.push(Page { path, access, route });
        self
    }

    /// Adds files of the program with their paths, for everyone.
    pub fn files(self, files: impl IntoIterator<Item = (&'static str, MethodRouter)>) -> Pages {
        let add = |pages: Pages, (path, file)| pages.page(path, PageAccess::Everyone, file);
        files.into_iter().fold(self, add)
    }

    /// Adds the pages of `other`.
    pub fn merge(mut self, other: Pages) -> Pages {
        self.0.extend(other.0);
        self
    }

    /// The path of each page.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.0.iter().map(|page| page.path).collect::<Vec<_>>().into_iter()
    }

    /// The routes, which check the rules with `access`.
    pub fn into_router(self, access: &AccessControl) -> Router {
        let authenticate = from_fn_with_state(access.clone(), authenticate::authenticate);
        self.into_rules(access).layer(authenticate)
    }

    /// The routes with their rules, for a router that authenticates.
    pub(crate) fn into_rules(self, access: &AccessControl) -> Router {
        self.0.into_iter().fold(Router::new(), |router, Page { path, access: rule, route }| {
            router.route(
                path,
                match rule {
                    PageAccess::Everyone => route,
                    PageAccess::Requires(action) => {
                        let state = (access.clone(), action);
                        route
                            .layer(from_fn_with_state(state, authenticate::require))
                            .layer(map_response(mark_internal))
                    }
                },
            )
        })
    }
}

/// Neither pages of other origins nor caches get an internal page.
async fn mark_internal(mut response: Response) -> Response {
    response.extensions_mut().insert(SameOriginOnly);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

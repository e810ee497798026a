//! The web pages of a node, embedded in the binary.
//!
//! # Overview
//!
//! [`demo`] is a scoreboard of the World Cup 2026 that receives its data over one WebSocket from the node
//! that serves it. The files are served from `demo/` beside `src/` without a build step. [`sdk`] is the JavaScript
//! SDK, which pages of the same host import from `/sdk/index.js`.
//!
//! # Guarantees
//!
//! - A page needs only its own node: it sends no request to another host, which the content security policy
//!   enforces.
//! - Content of messages is shown as text.
//!
//! # Non-goals
//!
//! Knowledge of the cluster: the page requests `/cluster` and `/ws` of its own host, like any other client.
//!
//! # Data flow
//!
//! The files are served from the binary. A browser that has the current version of a file receives 304.
//!
//! # Caller contract
//!
//! Do not mount another `/` in the same router. Serve `/cluster` and `/ws` on the same host.
//!
//! ```
//! let router = pushonce_console::demo()
//!     .into_iter()
//!     .fold(axum::Router::<()>::new(), |router, (path, page)| router.route(path, page));
//! ```

mod asset;
mod sdk;

use axum::routing::MethodRouter;

use asset::Asset;

const DEMO_ASSETS: [Asset; 5] = [
    Asset::html("/", include_str!("../demo/index.html")),
    Asset::css("/demo/demo.css", include_str!("../demo/demo.css")),
    Asset::js("/demo/demo.js", include_str!("../demo/demo.js")),
    Asset::js("/demo/feed.js", include_str!("../demo/feed.js")),
    Asset::js("/demo/board.js", include_str!("../demo/board.js")),
];

/// The modules of the JavaScript SDK with their paths. A page imports `/sdk/index.js`, which imports the others.
pub fn sdk() -> Vec<(&'static str, MethodRouter)> {
    routes(&sdk::MODULES)
}

/// The pages of the demo with their paths: `/` and the files that it loads. The host must also serve `/ws` and
/// `/cluster`.
pub fn demo() -> Vec<(&'static str, MethodRouter)> {
    routes(&DEMO_ASSETS)
}

fn routes(assets: &[Asset]) -> Vec<(&'static str, MethodRouter)> {
    assets.iter().map(|asset| (asset.path, asset.route())).collect()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use http::{Request, Response, StatusCode, header};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str, etag: Option<&str>) -> Response<Body> {
        let mut request = Request::get(path);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let request = request.body(Body::empty()).expect("a request");
        let pages = demo().into_iter().chain(sdk());
        let router =
            pages.fold(Router::<()>::new(), |router, (path, page)| router.route(path, page));
        router.oneshot(request).await.expect("infallible")
    }

    fn header<'r>(response: &'r Response<Body>, name: &str) -> &'r str {
        response.headers().get(name).expect("set").to_str().expect("text")
    }

    #[tokio::test]
    async fn every_asset_is_served_with_content_type_and_security_headers() {
        for asset in DEMO_ASSETS.into_iter().chain(sdk::MODULES) {
            let response = get(asset.path, None).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(header(&response, "content-type"), asset.content_type);
            assert_eq!(header(&response, "x-content-type-options"), "nosniff");
            assert!(header(&response, "content-security-policy").starts_with("default-src 'none'"));
            let body = response.into_body().collect().await.expect("whole").to_bytes();
            assert_eq!(body, asset.body.as_bytes());
        }
    }

    #[tokio::test]
    async fn request_with_the_current_etag_gets_not_modified() {
        let etag = header(&get("/", None).await, "etag").to_owned();
        assert_eq!(get("/", Some(&etag)).await.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(get("/", Some("\"other\"")).await.status(), StatusCode::OK);
    }

    /// `types.js` has types only, for tools.
    #[test]
    fn every_module_of_the_sdk_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../client/js/src");
        let files = std::fs::read_dir(folder).expect("the SDK").map(|file| file.expect("a file"));
        let mut expected: Vec<_> =
            files.map(|file| format!("/sdk/{}", file.file_name().display())).collect();
        expected.retain(|path| path != "/sdk/types.js");
        expected.sort();
        assert_eq!(sdk::MODULES.map(|asset| asset.path).to_vec(), expected);
    }

    #[test]
    fn pages_reference_no_other_host_and_write_no_markup() {
        for asset in DEMO_ASSETS {
            for pattern in
                ["https://", "http://", "innerHTML", "insertAdjacentHTML", "document.write"]
            {
                assert!(!asset.body.contains(pattern), "{} has {pattern}", asset.path);
            }
        }
    }
}

//! The web pages of a node, embedded in the binary.
//!
//! # Overview
//!
//! [`console`] shows operators the cluster, its topics and its slow sessions, and reads and publishes with their own
//! grants. Its files are in `console/`.
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
//! Knowledge of the cluster: the pages request `/cluster`, `/console/data/` and `/ws` of their own host, like any other
//! client.
//!
//! # Data flow
//!
//! The files are served from the binary. A browser that has the current version of a file receives 304.
//!
//! # Caller contract
//!
//! Do not mount another `/` or `/console/` in the same router. Serve `/cluster`, `/console/data/` and `/ws` on the same
//! host.
//!
//! ```
//! let router = pushonce_console::demo()
//!     .into_iter()
//!     .fold(axum::Router::<()>::new(), |router, (path, page)| router.route(path, page));
//! ```

mod asset;
mod console;
mod sdk;

use axum::response::Redirect;
use axum::routing::{MethodRouter, get};

use asset::Asset;

const DEMO_ASSETS: [Asset; 5] = [
    Asset::html("/", include_str!("../demo/index.html")),
    Asset::css("/demo/demo.css", include_str!("../demo/demo.css")),
    Asset::js("/demo/demo.js", include_str!("../demo/demo.js")),
    Asset::js("/demo/feed.js", include_str!("../demo/feed.js")),
    Asset::js("/demo/board.js", include_str!("../demo/board.js")),
];

/// The files of the console with their paths: the page `/console/`, which imports `/sdk/index.js`. The host must also
/// serve [`sdk`], `/ws` and the data below `/console/data/`.
pub fn console() -> Vec<(&'static str, MethodRouter)> {
    let to_page = get(async || Redirect::permanent("/console/"));
    let files = routes(&console::PAGES).into_iter().chain(routes(&console::MODULES));
    files.chain([("/console", to_page)]).collect()
}

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
        let pages = demo().into_iter().chain(sdk()).chain(console());
        let router =
            pages.fold(Router::<()>::new(), |router, (path, page)| router.route(path, page));
        router.oneshot(request).await.expect("infallible")
    }

    fn header<'r>(response: &'r Response<Body>, name: &str) -> &'r str {
        response.headers().get(name).expect("set").to_str().expect("text")
    }

    #[tokio::test]
    async fn every_asset_is_served_with_content_type_and_security_headers() {
        let console = console::PAGES.into_iter().chain(console::MODULES);
        for asset in DEMO_ASSETS.into_iter().chain(sdk::MODULES).chain(console) {
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
    fn every_file_of_the_console_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let files = std::fs::read_dir(folder).expect("the files").map(|file| file.expect("a file"));
        let names = files.map(|file| file.file_name().display().to_string());
        let mut expected: Vec<_> = names
            .filter(|name| name != "types.js")
            .map(|name| format!("/console/{}", name.strip_suffix("index.html").unwrap_or(&name)))
            .collect();
        expected.sort();
        let assets = console::PAGES.into_iter().chain(console::MODULES);
        let mut served: Vec<_> = assets.map(|asset| asset.path).collect();
        served.sort_unstable();
        assert_eq!(served, expected);
    }

    #[tokio::test]
    async fn console_without_a_slash_leads_to_the_page() {
        let response = get("/console", None).await;
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
        assert_eq!(header(&response, "location"), "/console/");
    }

    #[test]
    fn pages_reference_no_other_host_and_write_no_markup() {
        let console = console::PAGES.into_iter().chain(console::MODULES);
        for asset in DEMO_ASSETS.into_iter().chain(console) {
            // The name of the format of pictures, not an address.
            let body = asset.body.replace("http://www.w3.org/2000/svg", "");
            for pattern in
                ["https://", "http://", "innerHTML", "insertAdjacentHTML", "document.write"]
            {
                assert!(!body.contains(pattern), "{} has {pattern}", asset.path);
            }
        }
    }
}

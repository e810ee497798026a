//! The web pages of a node, embedded in the binary.
//!
//! # Overview
//!
//! [`console`] shows operators the cluster, its topics and its slow sessions, and reads and publishes with their own
//! grants. Its files are in `console/`.
//!
//! [`demo`] is the page of the demo: the World Cup 2026 as a wall of matches, received with the JavaScript SDK. The
//! files are served from `demo/` beside `src/` without a build step. [`sdk`] is the JavaScript SDK, which pages of the
//! same host import from `/sdk/index.js`.
//!
//! # Guarantees
//!
//! - A page sends requests to its own node only, and the demo page also to the other nodes of the demo. The content
//!   security policy enforces it.
//! - Content of messages is shown as text.
//!
//! # Non-goals
//!
//! Knowledge of the cluster: the console requests `/console/data/`, the demo page `/demo/state`, and both the topics, like
//! any other client.
//!
//! # Data flow
//!
//! The files are served from the binary. A browser that has the current version of a file receives 304.
//!
//! # Caller contract
//!
//! Do not mount another `/` or `/console/` in the same router. Serve `/console/data/`, `/topics`, `/ws` and [`sdk`] on the
//! same host, and for the demo page `/demo/state` and `/demo/nodes/{number}/{action}`.
//!
//! ```
//! let origins = ["http://127.0.0.1:7180".to_owned(), "ws://127.0.0.1:7180".to_owned()];
//! let router = pushonce_console::demo(&origins)
//!     .into_iter()
//!     .fold(axum::Router::<()>::new(), |router, (path, page)| router.route(path, page));
//! ```

mod asset;
mod console;
mod demo;
mod sdk;

use axum::response::Redirect;
use axum::routing::{MethodRouter, get};

use asset::Asset;

/// The files of the console with their paths: the page `/console/`, which imports `/sdk/index.js`. The host must also
/// serve [`sdk`], `/ws` and the data below `/console/data/`.
pub fn console() -> Vec<(&'static str, MethodRouter)> {
    let to_page = get(async || Redirect::permanent("/console/"));
    let files = [routes(&console::PAGES, &[]), routes(&console::MODULES, &[])].concat();
    files.into_iter().chain([("/console", to_page)]).collect()
}

/// The modules of the JavaScript SDK with their paths. A page imports `/sdk/index.js`, which imports the others.
pub fn sdk() -> Vec<(&'static str, MethodRouter)> {
    routes(&sdk::MODULES, &[])
}

/// The files of the demo page with their paths: `/` and its modules. The page may send requests to
/// these origins, each `SCHEME://HOST:PORT`: the nodes of the demo.
pub fn demo(origins: &[String]) -> Vec<(&'static str, MethodRouter)> {
    [routes(&demo::PAGE, origins), routes(&demo::MODULES, origins)].concat()
}

fn routes(assets: &[Asset], origins: &[String]) -> Vec<(&'static str, MethodRouter)> {
    assets.iter().map(|asset| (asset.path, asset.route(origins))).collect()
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
        let pages =
            demo(&["http://127.0.0.1:7180".to_owned(), "https://127.0.0.1:7543".to_owned()])
                .into_iter()
                .chain(sdk())
                .chain(console());
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
        for asset in demo::PAGE.into_iter().chain(demo::MODULES).chain(sdk::MODULES).chain(console)
        {
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

    #[tokio::test]
    async fn page_may_connect_to_its_own_host_and_the_given_origins_only() {
        let response = get("/", None).await;
        let policy = header(&response, "content-security-policy");
        let connect = policy.split("; ").find(|rule| rule.starts_with("connect-src"));
        assert_eq!(
            connect,
            Some("connect-src 'self' http://127.0.0.1:7180 https://127.0.0.1:7543")
        );
        assert!(policy.contains("script-src 'self'; style-src 'self';"), "{policy}");
        let response = get("/sdk/index.js", None).await;
        assert!(header(&response, "content-security-policy").contains("connect-src 'self';"));
    }

    fn modules_in(folder: &str, prefix: &str) -> Vec<String> {
        let folder = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file"));
        let names = files.map(|file| file.file_name().display().to_string());
        let modules = names.filter(|name| name.ends_with(".js"));
        let mut paths: Vec<_> = modules.map(|name| format!("{prefix}{name}")).collect();
        paths.sort();
        paths
    }

    #[test]
    fn every_module_is_served() {
        assert_eq!(demo::MODULES.map(|asset| asset.path).to_vec(), modules_in("demo", "/demo/"));
        let mut sdk = modules_in("../client/js/src", "/sdk/");
        // It has types only, for tools.
        sdk.retain(|path| path != "/sdk/types.js");
        assert_eq!(sdk::MODULES.map(|asset| asset.path).to_vec(), sdk);
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
        for asset in demo::PAGE.into_iter().chain(demo::MODULES).chain(console) {
            // The namespaces of SVG are names, not addresses.
            let body = asset.body.replace("http://www.w3.org/2000/svg", "");
            let body = body.replace("http%3A//www.w3.org/2000/svg", "");
            for pattern in ["://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"]
            {
                assert!(!body.contains(pattern), "{} has {pattern}", asset.path);
            }
        }
    }
}

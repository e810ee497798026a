//! The pages a node serves to browsers: files in the binary, and one route for each.
//!
//! *What is it?* [`demo`], a scoreboard of the World Cup 2026 that is fed over one WebSocket by the
//! node that serves it. The files lie in `demo/` beside `src/` as they are sent: no build step.
//!
//! *What does it promise?* A page needs nothing but its own node: no request goes elsewhere, and
//! the content security policy holds it to that. Whatever comes out of a message is shown as text.
//!
//! *What does it refuse?* To know anything of the cluster: the page asks `/cluster` and `/ws` of
//! its own host, like any other client.
//!
//! *How does data move?* Out of the binary; a browser that has the file already is told so (304).
//!
//! *What must a caller not do?* Mount another `/` beside it.

mod asset;

use axum::Router;

use asset::Asset;

const DEMO_ASSETS: [Asset; 5] = [
    Asset::html("/", include_str!("../demo/index.html")),
    Asset::css("/demo/demo.css", include_str!("../demo/demo.css")),
    Asset::js("/demo/demo.js", include_str!("../demo/demo.js")),
    Asset::js("/demo/feed.js", include_str!("../demo/feed.js")),
    Asset::js("/demo/board.js", include_str!("../demo/board.js")),
];

/// `/` and what it loads. The host must also serve `/ws` and `/cluster`.
pub fn demo() -> Router {
    DEMO_ASSETS
        .into_iter()
        .fold(Router::new(), |router, asset| router.route(asset.path, asset.route()))
}

#[cfg(test)]
mod tests {
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
        demo().oneshot(request).await.expect("infallible")
    }

    fn header<'r>(response: &'r Response<Body>, name: &str) -> &'r str {
        response.headers().get(name).expect("set").to_str().expect("text")
    }

    #[tokio::test]
    async fn every_asset_is_served_with_content_type_and_security_headers() {
        for asset in DEMO_ASSETS {
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

    #[test]
    fn assets_reference_no_other_host_and_write_no_markup() {
        for asset in DEMO_ASSETS {
            for pattern in
                ["https://", "http://", "innerHTML", "insertAdjacentHTML", "document.write"]
            {
                assert!(!asset.body.contains(pattern), "{} has {pattern}", asset.path);
            }
        }
    }
}

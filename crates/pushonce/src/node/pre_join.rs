//! The health pages of a node that is not a member yet. It may wait for its cluster for any time, and its
//! supervisor probes it meanwhile.

use std::net::SocketAddr;

use pushonce_gateway::PagePolicy;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::bind::bind;
use super::web;

/// Serves the health pages until the gateway takes over the port.
pub(super) struct PreJoinServer(JoinHandle<()>);

impl PreJoinServer {
    /// Serves the pages at the address of the HTTP port.
    ///
    /// # Errors
    /// When the port cannot be bound; the error names the flag to change.
    pub(super) async fn open(
        http: SocketAddr,
        page_policy: PagePolicy,
    ) -> anyhow::Result<PreJoinServer> {
        Ok(PreJoinServer::serve(bind(http, "--http").await?, page_policy))
    }

    fn serve(listener: TcpListener, page_policy: PagePolicy) -> PreJoinServer {
        PreJoinServer(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, web::pre_join_router(page_policy)).await {
                tracing::warn!(%error, "health pages failed before the node joined");
            }
        }))
    }

    /// Releases the port.
    pub(super) async fn close(self) {
        self.0.abort();
        // The task was cancelled, or ended with an error that was logged.
        let _ = self.0.await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use pushonce_gateway::AllowedOrigins;

    use super::*;

    /// The server on a free port; pages of the origin `https://a` may use it.
    async fn serve() -> (SocketAddr, PreJoinServer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let origins = AllowedOrigins::parse(["https://a"]).expect("an origin");
        let page_policy = PagePolicy::new(origins, address, None);
        (address, PreJoinServer::serve(listener, page_policy))
    }

    /// Sends a whole request, then reads the whole response.
    async fn send_request(to: SocketAddr, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(to).await.expect("connected");
        let head = format!("{head}Host: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("send the head");
        for chunk in body.chunks(16 << 10) {
            stream.write_all(chunk).await.expect("send the body");
            // Lets the server run, so that an early close could lose the response.
            tokio::task::yield_now().await;
        }
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response and a clean close");
        response.to_lowercase()
    }

    #[tokio::test]
    async fn large_publish_to_a_joining_node_is_answered_with_503_and_retry() {
        let (address, server) = serve().await;
        for _ in 0..5 {
            let response =
                send_request(address, "POST /topics/a HTTP/1.1\r\n", &vec![b'x'; 1 << 20]).await;
            assert!(response.starts_with("http/1.1 503"), "{response}");
            assert!(response.contains(r#""code":"unavailable""#), "{response}");
            assert!(response.contains(r#""retry":true"#), "{response}");
            assert!(response.contains("connection: close"), "{response}");
        }
        server.close().await;
    }

    #[tokio::test]
    async fn preflight_of_a_listed_origin_to_a_joining_node_is_allowed_and_closes_the_connection() {
        let (address, server) = serve().await;
        let preflight =
            |origin: &str| format!("OPTIONS /topics/a HTTP/1.1\r\nOrigin: {origin}\r\n");
        let response = send_request(address, &preflight("https://a"), b"").await;
        assert!(response.starts_with("http/1.1 204"), "{response}");
        assert!(response.contains("access-control-allow-origin: https://a"), "{response}");
        assert!(response.contains("access-control-allow-headers: content-type"), "{response}");
        assert!(response.contains(", authorization"), "{response}");
        assert!(response.contains("connection: close"), "{response}");
        let response = send_request(address, &preflight("https://b"), b"").await;
        assert!(response.starts_with("http/1.1 403"), "{response}");
        assert!(!response.contains("access-control-allow-origin"), "{response}");
        assert!(response.contains("connection: close"), "{response}");
        server.close().await;
    }
}

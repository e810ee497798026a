//! The health pages of a node that is not a member yet: it may wait for a cluster to take it in for as
//! long as it takes, and whoever started it asks meanwhile whether it lives.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{bind, web};

/// The pages, until the gateway takes their port.
pub(super) struct PreJoinServer(JoinHandle<()>);

impl PreJoinServer {
    /// Serves them at the address of the HTTP port.
    ///
    /// # Errors
    /// When the port cannot be had; says which flag changes it.
    pub(super) async fn open(http: SocketAddr) -> anyhow::Result<PreJoinServer> {
        Ok(PreJoinServer::serve(bind(http, "--http").await?))
    }

    fn serve(listener: TcpListener) -> PreJoinServer {
        PreJoinServer(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, web::pre_join_router()).await {
                tracing::warn!(%error, "health pages failed before the node joined");
            }
        }))
    }

    /// Gives the port back.
    pub(super) async fn close(self) {
        self.0.abort();
        // Cancelled, or ended by the error that is in the log.
        let _ = self.0.await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// Sends a request to its end, then reads the answer to its end.
    async fn send_request(to: SocketAddr, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(to).await.expect("connected");
        let head = format!("{head}Host: a\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("the head is sent");
        for chunk in body.chunks(16 << 10) {
            stream.write_all(chunk).await.expect("the body is sent");
            // So that the server has its turn, and the answer the time to be lost.
            tokio::task::yield_now().await;
        }
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("an answer and an orderly end");
        response.to_lowercase()
    }

    #[tokio::test]
    async fn large_publish_to_a_joining_node_is_answered_with_503_and_retry() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = PreJoinServer::serve(listener);
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
    async fn cors_preflight_to_a_joining_node_is_allowed_and_closes_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = PreJoinServer::serve(listener);
        let response =
            send_request(address, "OPTIONS /topics/a HTTP/1.1\r\nOrigin: b\r\n", b"").await;
        assert!(response.starts_with("http/1.1 204"), "{response}");
        assert!(response.contains("access-control-allow-origin: *"), "{response}");
        assert!(response.contains("access-control-allow-headers: content-type"), "{response}");
        assert!(response.contains("connection: close"), "{response}");
        server.close().await;
    }
}

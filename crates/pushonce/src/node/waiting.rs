//! The health pages of a node that is not a member yet: it may wait for a cluster to take it in for as
//! long as it takes, and whoever started it asks meanwhile whether it lives.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{bind, web};

/// The pages, until the gateway takes their port.
pub(super) struct WaitingPages(JoinHandle<()>);

impl WaitingPages {
    /// Serves them at the address of the HTTP port.
    ///
    /// # Errors
    /// When the port cannot be had; says which flag changes it.
    pub(super) async fn open(http: SocketAddr) -> anyhow::Result<WaitingPages> {
        Ok(WaitingPages::serve(bind(http, "--http").await?))
    }

    fn serve(listener: TcpListener) -> WaitingPages {
        WaitingPages(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, web::waiting_router()).await {
                tracing::warn!(%error, "the health pages ended before the node joined");
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
    async fn ask(to: SocketAddr, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(to).await.expect("connected");
        let head = format!("{head}Host: a\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("the head is sent");
        for piece in body.chunks(16 << 10) {
            stream.write_all(piece).await.expect("the body is sent");
            // So that the server has its turn, and the answer the time to be lost.
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer and an orderly end");
        answer.to_lowercase()
    }

    #[tokio::test]
    async fn large_publish_to_a_node_that_waits_is_told_to_go_elsewhere() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let pages = WaitingPages::serve(listener);
        for _ in 0..5 {
            let answer = ask(address, "POST /topics/a HTTP/1.1\r\n", &vec![b'x'; 1 << 20]).await;
            assert!(answer.starts_with("http/1.1 503"), "{answer}");
            assert!(answer.contains(r#""code":"unavailable""#), "{answer}");
            assert!(answer.contains(r#""retry":true"#), "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
        }
        pages.close().await;
    }

    #[tokio::test]
    async fn preflight_to_a_node_that_waits_is_allowed_and_ends_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let pages = WaitingPages::serve(listener);
        let answer = ask(address, "OPTIONS /topics/a HTTP/1.1\r\nOrigin: b\r\n", b"").await;
        assert!(answer.starts_with("http/1.1 204"), "{answer}");
        assert!(answer.contains("access-control-allow-origin: *"), "{answer}");
        assert!(answer.contains("access-control-allow-headers: content-type"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        pages.close().await;
    }
}

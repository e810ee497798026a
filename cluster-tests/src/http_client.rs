//! A minimal HTTP/1.1 client: one request per connection.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::secs;

/// An HTTP response.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    pub header_text: String,
    /// The body.
    pub body: String,
}

/// Sends a `GET` request with additional header lines.
pub async fn get(server: SocketAddr, path: &str, headers: &[&str]) -> Result<HttpResponse, String> {
    request(server, "GET", path, headers, b"").await
}

/// Sends a `POST` request.
pub async fn post(server: SocketAddr, path: &str, body: &[u8]) -> Result<HttpResponse, String> {
    request(server, "POST", path, &[], body).await
}

/// Sends a request with any method.
pub async fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Result<HttpResponse, String> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n");
    for line in headers {
        head += &format!("{line}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    let text = timeout(secs(10), send_and_read(server, &[head.as_bytes(), body].concat())).await;
    let text = text
        .map_err(|_| "no response within 10 s".to_owned())?
        .map_err(|error| error.to_string())?;
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| format!("incomplete response: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| format!("no status code: {head:?}"))?;
    let mut response = HttpResponse { status, header_text: head.to_owned(), body: body.to_owned() };
    if response.header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        response.body = join_chunks(body).ok_or_else(|| format!("incomplete chunks: {body:?}"))?;
    }
    Ok(response)
}

/// The content of a chunked body; `None` when it is not complete.
fn join_chunks(mut body: &str) -> Option<String> {
    let mut content = String::new();
    loop {
        let (len, rest) = body.split_once("\r\n")?;
        let len = usize::from_str_radix(len, 16).ok()?;
        if len == 0 {
            return Some(content);
        }
        content.push_str(rest.get(..len)?);
        body = rest.get(len..)?.strip_prefix("\r\n")?;
    }
}

/// Sends bytes and reads until the server closes the connection.
async fn send_and_read(server: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    // A server that rejects a request by its headers may not read the whole body.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

impl HttpResponse {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of the first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.header_text.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_must_be_complete() {
        assert_eq!(
            join_chunks("3\r\nab,\r\nA\r\n0123456789\r\n0\r\n\r\n").as_deref(),
            Some("ab,0123456789")
        );
        for incomplete in ["", "3\r\nab", "3\r\nab,\r\n", "x\r\nab,\r\n"] {
            assert_eq!(join_chunks(incomplete), None, "{incomplete:?}");
        }
    }
}

//! Negotiation of `Sec-WebSocket-Extensions` (RFC 6455, 9.1): permessage-deflate, or no extension.

use std::iter::Peekable;
use std::str::Chars;

use http::HeaderMap;
use http::header::SEC_WEBSOCKET_EXTENSIONS;

use crate::deflate::WINDOW_BITS;

/// The accepted parameters of permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PermessageDeflate {
    /// The client limited the server's window, so the response confirms its size.
    sends_window_bits: bool,
}

/// The header is not a list of extensions. RFC 6455 requires the handshake to fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MalformedExtensions;

/// One offer of an extension.
#[derive(Debug, PartialEq, Eq)]
struct ExtensionOffer {
    name: String,
    /// Each name with its value, if it has one.
    parameters: Vec<(String, Option<String>)>,
}

impl PermessageDeflate {
    /// Accepts the first offer that is supported. A client lists its offers in order of preference,
    /// and may offer the same extension several times with different parameters.
    ///
    /// # Errors
    /// [`MalformedExtensions`] if any part of the header is malformed, also behind a good offer.
    pub(crate) fn negotiate(
        headers: &HeaderMap,
    ) -> Result<Option<PermessageDeflate>, MalformedExtensions> {
        let mut agreed = None;
        for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
            for offer in parse_offers(line.to_str().map_err(|_| MalformedExtensions)?)? {
                agreed = agreed.or_else(|| PermessageDeflate::accept_offer(&offer));
            }
        }
        Ok(agreed)
    }

    /// RFC 7692, 7.1: an offer with a parameter that is unknown, invalid, repeated or unsupported is
    /// declined as a whole.
    fn accept_offer(offer: &ExtensionOffer) -> Option<PermessageDeflate> {
        if offer.name != "permessage-deflate" {
            return None;
        }
        let mut sends_window_bits = false;
        for (index, (name, value)) in offer.parameters.iter().enumerate() {
            if offer.parameters[..index].iter().any(|(earlier, _)| earlier == name) {
                return None;
            }
            match (name.as_str(), value.as_deref()) {
                // The response always has both.
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                ("server_max_window_bits", Some(bits)) => {
                    sends_window_bits = true;
                    parse_window_bits(bits).filter(|&bits| bits >= WINDOW_BITS)?;
                }
                // Limits the client's own window; the decompressor accepts any.
                ("client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(bits)) => _ = parse_window_bits(bits)?,
                _ => return None,
            }
        }
        Some(PermessageDeflate { sends_window_bits })
    }

    /// The value of the response header. Both sides go without context takeover, whether the client
    /// asked for it or not (7.1.1).
    pub(crate) fn response_header(self) -> String {
        let mut header = "permessage-deflate; server_no_context_takeover; \
            client_no_context_takeover"
            .to_owned();
        if self.sends_window_bits {
            header.push_str(&format!("; server_max_window_bits={WINDOW_BITS}"));
        }
        header
    }
}

/// 8 to 15, without a leading zero (7.1.2).
fn parse_window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (bits.to_string() == text).then_some(bits)
}

/// Reads `name; parameter=value, name; …`.
fn parse_offers(line: &str) -> Result<Vec<ExtensionOffer>, MalformedExtensions> {
    let mut parser = HeaderParser(line.chars().peekable());
    let mut offers = Vec::new();
    loop {
        // A list in HTTP may have empty members.
        while parser.consume(',') {}
        if parser.is_at_end() {
            return Ok(offers);
        }
        let name = parser.token()?;
        let mut parameters = Vec::new();
        while parser.consume(';') {
            let name = parser.token()?;
            let value = if parser.consume('=') { Some(parser.value()?) } else { None };
            parameters.push((name, value));
        }
        offers.push(ExtensionOffer { name, parameters });
        if !parser.is_at_end() && !parser.consume(',') {
            return Err(MalformedExtensions);
        }
    }
}

/// The unread rest of a header value.
struct HeaderParser<'a>(Peekable<Chars<'a>>);

impl HeaderParser<'_> {
    fn skip_spaces(&mut self) {
        while self.0.next_if(|&c| c == ' ' || c == '\t').is_some() {}
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_spaces();
        self.0.peek().is_none()
    }

    /// Skips `expected` if it is next. Returns whether it was.
    fn consume(&mut self, expected: char) -> bool {
        self.skip_spaces();
        self.0.next_if_eq(&expected).is_some()
    }

    fn token(&mut self) -> Result<String, MalformedExtensions> {
        self.skip_spaces();
        let mut token = String::new();
        while let Some(c) = self.0.next_if(|&c| is_token(c)) {
            token.push(c);
        }
        if token.is_empty() { Err(MalformedExtensions) } else { Ok(token) }
    }

    /// A token, bare or in quotes. The content of the quotes must be a token as well.
    fn value(&mut self) -> Result<String, MalformedExtensions> {
        if !self.consume('"') {
            return self.token();
        }
        let mut value = String::new();
        loop {
            let c = match self.0.next().ok_or(MalformedExtensions)? {
                '"' => break,
                '\\' => self.0.next().ok_or(MalformedExtensions)?,
                c => c,
            };
            if !is_token(c) {
                return Err(MalformedExtensions);
            }
            value.push(c);
        }
        if value.is_empty() { Err(MalformedExtensions) } else { Ok(value) }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn negotiate(lines: &[&str]) -> Result<Option<PermessageDeflate>, MalformedExtensions> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(line).unwrap());
        }
        PermessageDeflate::negotiate(&headers)
    }

    fn response_header(lines: &[&str]) -> Option<String> {
        negotiate(lines).unwrap().map(PermessageDeflate::response_header)
    }

    const NO_CONTEXT_TAKEOVER: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn common_offers_are_accepted_without_context_takeover() {
        for offer in [
            "permessage-deflate",
            // Browsers.
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=15",
            "permessage-deflate ; client_max_window_bits = \"8\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate",
            ", permessage-deflate ,,",
        ] {
            assert_eq!(response_header(&[offer]).as_deref(), Some(NO_CONTEXT_TAKEOVER), "{offer}");
        }
    }

    #[test]
    fn requested_window_is_confirmed_if_supported() {
        let limited = format!("{NO_CONTEXT_TAKEOVER}; server_max_window_bits=12");
        for bits in ["12", "13", "15", "\"15\"", "\"1\\5\""] {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            assert_eq!(response_header(&[&offer]), Some(limited.clone()), "{offer}");
        }
    }

    #[test]
    fn unsupported_offer_is_declined() {
        for parameters in [
            "server_max_window_bits=11",
            "server_max_window_bits=8",
            "server_max_window_bits",
            "server_max_window_bits=16",
            "server_max_window_bits=012",
            "server_max_window_bits=+12",
            "server_max_window_bits=x",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits=08",
            "client_max_window_bits=\"x\"",
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "client_max_window_bits; client_max_window_bits=15",
            "server_no_context_takeover; server_no_context_takeover",
            "mem_level=9",
            "Server_No_Context_Takeover",
        ] {
            let offer = format!("permessage-deflate; {parameters}");
            assert_eq!(response_header(&[&offer]), None, "{offer}");
        }
        assert_eq!(response_header(&["permessage-deflate2", "x; y=z, deflate"]), None);
        assert_eq!(response_header(&[]), None);
    }

    #[test]
    fn first_supported_offer_is_accepted() {
        let limited = format!("{NO_CONTEXT_TAKEOVER}; server_max_window_bits=12");
        let first = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(
            response_header(&[&format!("{first}, permessage-deflate")]).as_deref(),
            Some(NO_CONTEXT_TAKEOVER)
        );
        assert_eq!(
            response_header(&[first, "permessage-deflate"]).as_deref(),
            Some(NO_CONTEXT_TAKEOVER),
            "two lines"
        );
        let both = "permessage-deflate; server_max_window_bits=12, permessage-deflate";
        assert_eq!(response_header(&[both]), Some(limited));
    }

    #[test]
    fn malformed_extensions_header_is_rejected() {
        for line in [
            ";",
            "permessage-deflate;",
            "permessage-deflate; =15",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"15",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\"1 5\"",
            "permessage-deflate; server_max_window_bits=15 x",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate, x; y=@",
            "permessage/deflate",
        ] {
            assert_eq!(negotiate(&[line]), Err(MalformedExtensions), "{line}");
        }
    }
}

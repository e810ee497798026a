//! What `Sec-WebSocket-Extensions` may agree on (RFC 6455, 9.1): permessage-deflate, or nothing.

use std::iter::Peekable;
use std::str::Chars;

use http::HeaderMap;
use http::header::SEC_WEBSOCKET_EXTENSIONS;

use super::deflate::WINDOW_BITS;

/// permessage-deflate was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deflate {
    /// The client asked for a window of no more than so many bits, and hears how many it gets.
    limits_window: bool,
}

/// The header is no list of extensions: the connection must fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// One offer of an extension.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    name: String,
    /// With its value, if it has one.
    parameters: Vec<(String, Option<String>)>,
}

impl Deflate {
    /// The first offer that can be kept. A client offers what it likes best first, and may offer the
    /// same extension again with less in it.
    pub(super) fn agree(headers: &HeaderMap) -> Result<Option<Deflate>, Malformed> {
        let mut agreed = None;
        // All of it is read: a mistake behind a good offer is a mistake.
        for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
            for offer in offers(line.to_str().map_err(|_| Malformed)?)? {
                agreed = agreed.or_else(|| Deflate::of(&offer));
            }
        }
        Ok(agreed)
    }

    /// RFC 7692, 7.1: an offer with a parameter that is unknown, wrong, there twice, or cannot be
    /// kept, is declined as a whole.
    fn of(offer: &Offer) -> Option<Deflate> {
        if offer.name != "permessage-deflate" {
            return None;
        }
        let mut limits_window = false;
        for (index, (name, value)) in offer.parameters.iter().enumerate() {
            if offer.parameters[..index].iter().any(|(earlier, _)| earlier == name) {
                return None;
            }
            match (name.as_str(), value.as_deref()) {
                // Both are said anyway.
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                ("server_max_window_bits", Some(bits)) => {
                    limits_window = true;
                    window_bits(bits).filter(|&bits| bits >= WINDOW_BITS)?;
                }
                // How much the client is content with; any window can be read.
                ("client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(bits)) => _ = window_bits(bits)?,
                _ => return None,
            }
        }
        Some(Deflate { limits_window })
    }

    /// What the client hears. Without context on both sides, asked for or not (7.1.1).
    pub(super) fn answer(self) -> String {
        let mut answer = "permessage-deflate; server_no_context_takeover; \
            client_no_context_takeover"
            .to_owned();
        if self.limits_window {
            answer.push_str(&format!("; server_max_window_bits={WINDOW_BITS}"));
        }
        answer
    }
}

/// 8 to 15, without a leading zero (7.1.2).
fn window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (bits.to_string() == text).then_some(bits)
}

/// Reads `name; parameter=value, name; …`.
fn offers(line: &str) -> Result<Vec<Offer>, Malformed> {
    let mut text = Text(line.chars().peekable());
    let mut offers = Vec::new();
    loop {
        // Lists of HTTP may have empty members.
        while text.eat(',') {}
        if text.ends() {
            return Ok(offers);
        }
        let name = text.token()?;
        let mut parameters = Vec::new();
        while text.eat(';') {
            let name = text.token()?;
            let value = if text.eat('=') { Some(text.value()?) } else { None };
            parameters.push((name, value));
        }
        offers.push(Offer { name, parameters });
        if !text.ends() && !text.eat(',') {
            return Err(Malformed);
        }
    }
}

/// A header's value, from some place on.
struct Text<'a>(Peekable<Chars<'a>>);

impl Text<'_> {
    fn skip_spaces(&mut self) {
        while self.0.next_if(|&c| c == ' ' || c == '\t').is_some() {}
    }

    fn ends(&mut self) -> bool {
        self.skip_spaces();
        self.0.peek().is_none()
    }

    /// Whether this sign stands here; then it is behind us.
    fn eat(&mut self, sign: char) -> bool {
        self.skip_spaces();
        self.0.next_if_eq(&sign).is_some()
    }

    fn token(&mut self) -> Result<String, Malformed> {
        self.skip_spaces();
        let mut token = String::new();
        while let Some(c) = self.0.next_if(|&c| is_token(c)) {
            token.push(c);
        }
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, as it is or in quotes: what stands in them must be one, too.
    fn value(&mut self) -> Result<String, Malformed> {
        if !self.eat('"') {
            return self.token();
        }
        let mut value = String::new();
        loop {
            let c = match self.0.next().ok_or(Malformed)? {
                '"' => break,
                '\\' => self.0.next().ok_or(Malformed)?,
                c => c,
            };
            if !is_token(c) {
                return Err(Malformed);
            }
            value.push(c);
        }
        if value.is_empty() { Err(Malformed) } else { Ok(value) }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn agree(lines: &[&str]) -> Result<Option<Deflate>, Malformed> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(line).unwrap());
        }
        Deflate::agree(&headers)
    }

    fn answer(lines: &[&str]) -> Option<String> {
        agree(lines).unwrap().map(Deflate::answer)
    }

    const PLAIN: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn what_clients_offer_is_agreed_on_without_context() {
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
            assert_eq!(answer(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
    }

    #[test]
    fn a_window_that_is_asked_for_is_named_when_it_can_be_kept() {
        let limited = format!("{PLAIN}; server_max_window_bits=12");
        for bits in ["12", "13", "15", "\"15\"", "\"1\\5\""] {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            assert_eq!(answer(&[&offer]), Some(limited.clone()), "{offer}");
        }
    }

    #[test]
    fn an_offer_that_cannot_be_kept_is_declined() {
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
            assert_eq!(answer(&[&offer]), None, "{offer}");
        }
        assert_eq!(answer(&["permessage-deflate2", "x; y=z, deflate"]), None);
        assert_eq!(answer(&[]), None);
    }

    #[test]
    fn the_first_offer_that_can_be_kept_is_taken() {
        let limited = format!("{PLAIN}; server_max_window_bits=12");
        let first = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(answer(&[&format!("{first}, permessage-deflate")]).as_deref(), Some(PLAIN));
        assert_eq!(answer(&[first, "permessage-deflate"]).as_deref(), Some(PLAIN), "two lines");
        let both = "permessage-deflate; server_max_window_bits=12, permessage-deflate";
        assert_eq!(answer(&[both]), Some(limited));
    }

    #[test]
    fn what_is_no_list_of_extensions_is_refused() {
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
            assert_eq!(agree(&[line]), Err(Malformed), "{line}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_offered_the_answer_is_one_of_two(line in "[a-z_=;, \"\\\\0-9]{0,60}") {
            if let Ok(Some(deflate)) = agree(&[&line]) {
                prop_assert!(deflate.answer().starts_with(PLAIN));
            }
        }
    }
}

//! Texts in the head of a request: hosts, origins, queries and credentials.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use pushonce_fuzz::Input;

use super::Origin;
use super::authenticate::Credential;
use super::authority::Authority;
use crate::query;

#[test]
fn accepted_host_and_origin_are_read_as_written() {
    let texts =
        ["localhost:7080", "[::1]:80", "https://Example.com:443", "http://[::1]:7080", "null"];
    pushonce_fuzz::check!("hosts", texts.map(Into::into).to_vec(), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Some(Authority { host, port }) = Authority::parse(text) {
            assert!(text.starts_with(host) && !host.contains(['@', '/', '?', '#', ',']));
            let rest = &text[host.len()..];
            assert_eq!(port.is_some(), !rest.is_empty());
            assert_eq!(rest.strip_prefix(':').and_then(|digits| digits.parse().ok()), port);
        }
        if let Ok(origin) = text.parse::<Origin>() {
            assert_eq!(origin.as_str().parse(), Ok(origin.clone()));
            assert!(HeaderValue::from_str(origin.as_str()).is_ok() && !origin.host().is_empty());
        }
    });
}

#[test]
fn decoded_query_has_the_pairs_that_a_form_encoder_writes() {
    let seeds =
        ["topic=a%2Fb+c&from=12:4051", "ticket=1.0a.00&a", "x=%FF", "token=a.b.c\0Bearer a.b.c"];
    pushonce_fuzz::check!("queries", seeds.map(Into::into).to_vec(), |input| {
        let mut input = Input::new(input);
        let Ok(text) = std::str::from_utf8(input.until_zero()) else { return };
        if let Ok(pairs) = query::pairs(text) {
            let encoded =
                form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            let written =
                pairs.iter().filter(|(name, value)| !name.is_empty() || !value.is_empty());
            let decoded = query::pairs(&encoded).expect("well encoded");
            assert!(decoded.iter().filter(|(n, v)| !n.is_empty() || !v.is_empty()).eq(written));
        }
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(input.until_zero())
            && !value.is_empty()
        {
            headers.insert(AUTHORIZATION, value);
        }
        match Credential::from_request(&headers, Some(text)) {
            // A token comes from the header alone.
            Ok(Credential::Bearer(_)) => assert!(headers.contains_key(AUTHORIZATION)),
            Ok(Credential::Ticket(_)) => assert!(text.contains("ticket")),
            Ok(Credential::None) => assert!(headers.is_empty()),
            Err(error) => assert!(error.into_http_response().status().is_client_error()),
        }
    });
}

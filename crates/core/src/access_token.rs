//! The text of a token, as a caller sends it.

use std::fmt;

/// A token that nobody has verified. `Debug` hides it, so that no log line and no error contains it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// Takes the text of a token.
    pub fn new(text: impl Into<String>) -> AccessToken {
        AccessToken(text.into())
    }

    /// The text, to send or to verify. It must not reach a log line or an error.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_of_a_token_does_not_contain_it() {
        assert!(!format!("{:?}", AccessToken::new("header.claims.signature")).contains("claims"));
    }
}

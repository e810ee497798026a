//! The access token of a client, and where new ones come from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{AccessToken, Timestamp};
use tonic::metadata::{MetadataMap, MetadataValue};

type TokenFuture = BoxFuture<'static, Result<AccessToken, TokenError>>;

/// Supplies the access token of a [`Publisher`](crate::Publisher) or [`Subscriber`](crate::Subscriber).
///
/// It is asked for every connection and for every gRPC call, and before the token of a session expires; it
/// should keep a token until shortly before its expiry, and then get a new one. A session keeps its subject:
/// a renewal with a token of another subject is rejected.
///
/// # Example
///
/// ```
/// use pushonce_client::{AccessToken, TokenProvider};
///
/// # async fn fetch_token() -> Result<String, std::io::Error> { Ok(String::new()) }
/// let provider = TokenProvider::from_fn(|| async { Ok(AccessToken::new(fetch_token().await?)) });
/// # let _ = provider;
/// ```
#[derive(Clone)]
pub struct TokenProvider(Arc<dyn Fn() -> TokenFuture + Send + Sync>);

/// Why there is no token. The text is logged, and must not contain one.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// A token is renewed when a fifth of its remaining time is left: for a token of five minutes, a minute
/// before it expires.
const RENEWAL_SHARE: f64 = 0.8;

/// Minimum time between two renewals, for a provider that returns the same token again.
const RENEWAL_INTERVAL_MIN: Duration = Duration::from_secs(1);

impl TokenProvider {
    /// Always the same token. A session ends when it expires.
    pub fn fixed(token: AccessToken) -> TokenProvider {
        TokenProvider::from_fn(move || std::future::ready(Ok(token.clone())))
    }

    /// The content of a file, which another program renews. White space around it is ignored.
    pub fn file(path: impl Into<PathBuf>) -> TokenProvider {
        let path = path.into();
        TokenProvider::from_fn(move || {
            let path = path.clone();
            async move {
                let text = tokio::fs::read_to_string(&path).await.map_err(|error| {
                    format!("cannot read the token of {}: {error}", path.display())
                })?;
                Ok(AccessToken::new(text.trim()))
            }
        })
    }

    /// What a function returns.
    pub fn from_fn<F>(provide: impl Fn() -> F + Send + Sync + 'static) -> TokenProvider
    where
        F: Future<Output = Result<AccessToken, TokenError>> + Send + 'static,
    {
        TokenProvider(Arc::new(move || provide().boxed()))
    }

    /// The token to use now.
    ///
    /// # Errors
    /// [`TokenError`] of the function or file.
    pub async fn token(&self) -> Result<AccessToken, TokenError> {
        (self.0)().await
    }
}

/// Adds a token to a gRPC call.
///
/// # Errors
/// [`TokenError`] for a token that is no header value.
pub(crate) fn add_to_metadata(
    token: &AccessToken,
    metadata: &mut MetadataMap,
) -> Result<(), TokenError> {
    let value = format!("Bearer {}", token.secret());
    let mut value = MetadataValue::try_from(value)
        .map_err(|_| "the token has characters that no header may have; check its source")?;
    value.set_sensitive(true);
    metadata.insert("authorization", value);
    Ok(())
}

/// How long to wait before the token of a session, which expires at `expires`, is renewed.
pub(crate) fn renewal_delay(expires: Timestamp) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let remaining = Duration::from_millis(expires.0).saturating_sub(now);
    remaining.mul_f64(RENEWAL_SHARE).max(RENEWAL_INTERVAL_MIN)
}

impl fmt::Debug for TokenProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenProvider(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn file_is_read_again_for_every_token_and_its_line_break_is_ignored() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let provider = TokenProvider::file(file.path());
        for text in ["one", "two"] {
            std::fs::write(file.path(), format!("{text}\n")).unwrap();
            assert_eq!(provider.token().await.unwrap().secret(), text);
        }
        drop(file);
        assert!(provider.token().await.is_err());
    }

    #[test]
    fn token_is_in_no_debug_output_and_invalid_characters_are_rejected() {
        let mut metadata = MetadataMap::new();
        add_to_metadata(&AccessToken::new("secret"), &mut metadata).unwrap();
        let provider = TokenProvider::fixed(AccessToken::new("secret"));
        assert!(!format!("{metadata:?} {provider:?}").contains("secret"));
        let error = add_to_metadata(&AccessToken::new("a\nsecret"), &mut metadata).unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}

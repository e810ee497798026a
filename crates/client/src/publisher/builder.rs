//! The settings of a publisher.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::Backoff;

use super::{Publisher, PublisherShared};
use crate::build_error::{BuildError, check_servers};
use crate::server_address::ServerAddress;
use crate::session::{CertificateTrust, Transport};
use crate::token::TokenProvider;

/// Configuration of a [`Publisher`].
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use pushonce_client::{AccessToken, CertificateTrust, Publisher, TokenProvider};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let token = AccessToken::new(std::env::var("PUSHONCE_TOKEN").unwrap_or_default());
/// let publisher = Publisher::builder(["https://node-1.example:7090".parse()?])
///     .token(TokenProvider::fixed(token))
///     .trust(CertificateTrust::System)
///     .deadline(Duration::from_secs(3))
///     .build()?;
/// # let _ = publisher;
/// # Ok(())
/// # }
/// ```
#[must_use = "a publisher exists after `build`"]
#[derive(Clone, Debug)]
pub struct PublisherBuilder {
    servers: Vec<ServerAddress>,
    settings: PublisherSettings,
}

/// What a publisher was configured with.
#[derive(Clone, Debug)]
pub(crate) struct PublisherSettings {
    pub(crate) token: Option<TokenProvider>,
    pub(crate) trust: CertificateTrust,
    pub(crate) deadline: Duration,
    /// Delays before a message is sent again.
    pub(crate) backoff: Backoff,
}

impl PublisherBuilder {
    pub(super) fn new(servers: impl IntoIterator<Item = ServerAddress>) -> PublisherBuilder {
        let settings = PublisherSettings {
            token: None,
            trust: CertificateTrust::default(),
            deadline: Publisher::DEADLINE,
            backoff: Publisher::RETRY_BACKOFF,
        };
        PublisherBuilder { servers: servers.into_iter().collect(), settings }
    }

    /// Sets where the access token comes from. It is asked for each publish and stream.
    pub fn token(mut self, provider: TokenProvider) -> PublisherBuilder {
        self.settings.token = Some(provider);
        self
    }

    /// Sets which certificates servers with `https://` addresses may have.
    pub fn trust(mut self, trust: CertificateTrust) -> PublisherBuilder {
        self.settings.trust = trust;
        self
    }

    /// Sets the time after which an outcome that is not known yet is reported as unknown, from 100 ms to 1 minute.
    /// The default is [`Publisher::DEADLINE`]. Messages of a stream are tried again for as long.
    pub fn deadline(mut self, deadline: Duration) -> PublisherBuilder {
        self.settings.deadline = deadline;
        self
    }

    /// Sets the delays between attempts, drawn at random below a bound that grows from `initial` to `max`. The
    /// default is 20 ms to 500 ms: a shard that moves is back in a second or two.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> PublisherBuilder {
        self.settings.backoff = Backoff::new(initial, max);
        self
    }

    /// Creates the publisher. It connects when it is first used.
    ///
    /// # Errors
    /// [`BuildError`] when no message could ever be published.
    pub fn build(self) -> Result<Publisher, BuildError> {
        let PublisherBuilder { servers, settings } = self;
        check_servers(&servers, Transport::Grpc)?;
        settings.trust.check_certificates().map_err(BuildError::InvalidTrust)?;
        // A node keeps the keys of retries for minutes: beyond a minute a retry could be stored twice.
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&settings.deadline) {
            let value = format!("{:?}", settings.deadline);
            let range = "use 100 ms to 1 minute";
            return Err(BuildError::InvalidSetting { setting: "deadline", value, range });
        }
        Ok(Publisher { shared: Arc::new(PublisherShared::new(servers, settings)) })
    }
}

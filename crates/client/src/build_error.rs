//! Why a publisher or subscriber cannot be created.

use crate::server_address::ServerAddress;
use crate::session::Transport;

/// Why a [`Publisher`](crate::Publisher) or [`Subscriber`](crate::Subscriber) cannot be created. Each text says what
/// to change.
///
/// # Example
///
/// ```
/// use pushonce_client::{BuildError, Publisher};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// match Publisher::new(["ws://127.0.0.1:7080".parse()?]) {
///     Err(error @ BuildError::WrongScheme { .. }) => println!("{error}"),
///     _ => unreachable!("a publisher needs http://HOST:PORT or https://HOST:PORT"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The list of servers is empty.
    #[error("the list of servers is empty; give the address of at least one node")]
    NoServers,
    /// A server address is for another transport.
    #[error("{server} is not an address for this transport: {}", transport.address_form())]
    WrongScheme {
        /// The address.
        server: ServerAddress,
        /// The transport of the publisher or subscriber.
        transport: Transport,
    },
    /// The trusted certificates cannot be read.
    #[error("{0}")]
    InvalidTrust(String),
    /// A setting is outside its range.
    #[error("{setting} is {value}; {range}")]
    InvalidSetting {
        /// The method of the builder.
        setting: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
}

/// Checks that a client can use these servers.
pub(crate) fn check_servers(
    servers: &[ServerAddress],
    transport: Transport,
) -> Result<(), BuildError> {
    if servers.is_empty() {
        return Err(BuildError::NoServers);
    }
    match servers.iter().find(|server| !transport.supports_scheme(server.scheme)) {
        Some(server) => Err(BuildError::WrongScheme { server: server.clone(), transport }),
        None => Ok(()),
    }
}

//! Who calls, and what they may do: tokens, grants, and the one function that decides.
//!
//! # Overview
//!
//! An [`Authenticator`] turns a token, a signed JWT, into a [`Caller`] with [`Grants`]. [`authorize`] decides
//! whether a caller may do an [`Action`] in the namespaces as they are now. Every way into a node asks it.
//! The issuers and their keys come from a file; keys are files or published by the issuer (JWKS).
//!
//! # Guarantees
//!
//! - A decision depends on the caller, the action and the settings of the namespaces only.
//! - A deny wins over every grant. What no pattern grants is refused.
//! - Without a configured issuer every caller is unrestricted; with one, a caller without a token may read
//!   namespaces with `anonymous_read` and nothing else. A missing or malformed file is an error, never "no
//!   issuer".
//! - A key verifies tokens of its own issuer only, with its own algorithm only. Nothing in a token selects an
//!   algorithm or an address.
//! - A token is accepted as a whole or not at all: one malformed grant or repeated claim refuses it.
//! - A change of the files takes effect within 30 seconds. If the new files are not usable, the old keys stay.
//! - A key set is fetched at most every 30 seconds for each issuer, and used for at most 24 hours after the
//!   last success.
//! - When an issuer or a key is removed, its tokens are no longer valid, also in open sessions
//!   ([`AccessControl::check_valid`]). A file or a set that cannot be read or fetched removes nothing.
//! - An address with too many forged or malformed tokens has to wait up to a tenth of a second before the next one is
//!   read, over all doors of a node. A token whose signature was verified never counts.
//! - Keys and tokens appear in no `Debug` output, log line or error.
//!
//! # Non-goals
//!
//! Sessions, tickets, quotas, revocation, and where in a request the token travels. Encrypted tokens.
//!
//! # Data flow
//!
//! token → `UnverifiedToken` → key of its issuer → signature → type, claims, times → grants → [`Caller`] →
//! [`authorize`] for each request of the caller. [`Authenticator::run`] replaces the keys.
//!
//! # Caller contract
//!
//! - Ask [`authorize`] for every request, also for one that continues an earlier one, such as a page of
//!   history: the token and the namespaces may have changed.
//! - Check [`AccessControl::check_valid`] for as long as a session lives: at its expiry, and when the view or
//!   [`AccessControl::key_changes`] change.
//! - Run [`Authenticator::run`], and call [`Authenticator::reload`] on SIGHUP.
//! - Never decide by [`read_unverified`].
//!
//! ```
//! use pushonce_auth::{Action, Authenticator, authorize};
//! use pushonce_core::{Namespaces, Topic};
//!
//! let topic = Topic::new("chat/7")?;
//! let caller = Authenticator::open().without_token();
//! assert!(authorize(&caller, Action::Subscribe(&topic), &Namespaces::default()).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod access_control;
mod algorithm;
pub mod audit;
mod authenticator;
mod authorize;
mod caller;
mod error;
#[cfg(test)]
mod fuzz;
mod grants;
mod issuers;
mod jwks;
mod key;
mod metrics;
mod pattern;
#[cfg(test)]
mod testing;
mod tickets;
mod token;

pub use access_control::{AccessControl, AccessError, Clock, RefusalKind};
pub use algorithm::{Algorithm, UnsupportedAlgorithm};
pub use authenticator::Authenticator;
pub use authorize::{Action, Denied, Permission, PublishDoor, authorize, decide};
pub use caller::{Caller, VerifiedToken};
pub use error::AuthenticationError;
pub use grants::{AdminAccess, Grants, PatternSet};
pub use issuers::IssuersError;
pub use key::{InvalidKey, KeyFingerprint, NewKey, SigningError, SigningKey};
pub use metrics::METRICS;
pub use pattern::{InvalidPattern, TopicPattern};
pub use tickets::{
    InvalidTicket, NewTicket, NoPeers, TICKET_TOPICS_MAX, Ticket, TicketPeers, Tickets,
};
pub use token::{NewToken, read_unverified};

//! Metrics of authentication.

use pushonce_telemetry::Metric;

/// Every metric of this crate.
pub const METRICS: &[Metric] =
    &[TOKENS_REJECTED, ATTEMPTS_REJECTED, JWKS_REFRESHES, ISSUERS_RELOADS, REFUSED, TICKETS];

pub(crate) const TOKENS_REJECTED: Metric = Metric::counter(
    "pushonce_auth_tokens_rejected_total",
    "Tokens that were refused, by reason: too_long, malformed, issuer, unknown_key, keys_unavailable, \
     algorithm, signature, type, claims, audience, expired, not_yet_valid or grants.",
)
.with_labels(&["reason"]);

pub(crate) const ATTEMPTS_REJECTED: Metric = Metric::counter(
    "pushonce_auth_attempts_rejected_total",
    "Tokens and tickets that were refused unread, because too many of their address were not valid.",
);

pub(crate) const JWKS_REFRESHES: Metric = Metric::counter(
    "pushonce_auth_jwks_refreshes_total",
    "Attempts to fetch the keys of an issuer, by result: ok or error. After a day of errors its tokens are \
     refused.",
)
.with_labels(&["result"]);

pub(crate) const ISSUERS_RELOADS: Metric = Metric::counter(
    "pushonce_auth_issuers_reloads_total",
    "Changes of the issuers file or its key files, by result: ok, or error (the old ones stay).",
)
.with_labels(&["result"]);

pub(crate) const REFUSED: Metric = Metric::counter(
    "pushonce_auth_refused_total",
    "Requests that were refused for lack of a grant or of a valid token, by action. Requests with a token that \
     could not be verified are in pushonce_auth_tokens_rejected_total.",
)
.with_labels(&["action"]);

pub(crate) const TICKETS: Metric = Metric::counter(
    "pushonce_auth_tickets_total",
    "One-use tickets of this node, by result: issued, redeemed, unknown (used, expired or invented) or \
     rejected (too many waited).",
)
.with_labels(&["result"]);

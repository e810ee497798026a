//! The issuers file as text.

use std::path::PathBuf;

use serde::Deserialize;

/// The file: a list of tables `[[issuer]]`. Unknown keys are rejected: a misspelt restriction must not be
/// ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuersFile {
    #[serde(default)]
    pub(super) issuer: Vec<IssuerTable>,
}

/// One issuer. Its keys come from exactly one of `jwks`, `jwks-file` and `key`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct IssuerTable {
    /// The claim `iss`.
    pub(super) issuer: String,
    /// The claim `aud` that tokens must have.
    pub(super) audience: String,
    /// The accepted algorithms. By default all with a public key, and for single keys that of the key.
    pub(super) algorithms: Option<Vec<String>>,
    /// The only accepted type of tokens (`typ`).
    pub(super) typ: Option<String>,
    /// Address of a JWK set.
    pub(super) jwks: Option<String>,
    /// File with a JWK set.
    pub(super) jwks_file: Option<PathBuf>,
    /// Single keys.
    #[serde(default)]
    pub(super) key: Vec<KeyTable>,
}

/// One key, from exactly one of `public-key`, `file`, `secret-file` and `secret-env`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct KeyTable {
    /// The key id; needed when an issuer has several keys.
    pub(super) id: Option<String>,
    /// The algorithm.
    pub(super) algorithm: String,
    /// A public key, PEM or JWK.
    pub(super) public_key: Option<String>,
    /// File with a public key, PEM or JWK.
    pub(super) file: Option<PathBuf>,
    /// File with the secret of HS256. A line break at its end does not belong to the secret.
    pub(super) secret_file: Option<PathBuf>,
    /// Variable with the secret of HS256.
    pub(super) secret_env: Option<String>,
}

//! Reads the issuers file and the keys that it names.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use ring::digest;

use super::file::{IssuerTable, IssuersFile, KeyTable};
use super::{ACCESS_TOKEN, Issuer, Issuers, KeyChanges, Keys, TokenType};
use crate::Algorithm;
use crate::jwks::JwksSource;
use crate::key::{InvalidKey, KeySetDocument, UnusableKey, VerificationKey};

/// An issuers file, or a key that it names, cannot be used. No text has anything of a secret.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct IssuersError {
    /// The issuers file.
    pub path: PathBuf,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("cannot read the file: {0}")]
    Unreadable(#[from] io::Error),
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("it names no issuer; add a table [[issuer]], or do not set --issuers")]
    NoIssuer,
    #[error("issuer {issuer:?}: {reason}")]
    Issuer { issuer: String, reason: IssuerReason },
}

#[derive(Debug, thiserror::Error)]
enum IssuerReason {
    #[error("there is another table with this `issuer`; put all keys into one")]
    Duplicate,
    #[error("`{0}` must not be empty")]
    Empty(&'static str),
    #[error("set exactly one of `jwks`, `jwks-file` and [[issuer.key]]")]
    KeySource,
    #[error("{0}")]
    Jwks(#[from] crate::jwks::InvalidJwksUrl),
    #[error("{0}")]
    Algorithm(#[from] crate::UnsupportedAlgorithm),
    #[error("HS256 keys cannot be fetched, since a published secret is none; use `secret-file`")]
    FetchedSecret,
    #[error("cannot read the key set {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("the key set {}: {reason}", path.display())]
    KeySet { path: PathBuf, reason: UnusableKey },
    #[error("key {id}: {reason}")]
    Key { id: String, reason: KeyReason },
}

#[derive(Debug, thiserror::Error)]
enum KeyReason {
    #[error("there is another key with this `id`, or without `id`; give each key its own")]
    Duplicate,
    #[error("set exactly one of `public-key`, `file`, `secret-file` and `secret-env`")]
    Source,
    #[error(
        "`secret-file` and `secret-env` are for HS256; the public keys of others need `public-key` or `file`"
    )]
    SecretOfPublicKey,
    #[error(
        "HS256 has no public key: use `secret-file` or `secret-env` instead of `public-key` or `file`"
    )]
    PublicKeyOfSecret,
    #[error("{0} is not one of `algorithms`")]
    AlgorithmNotAllowed(Algorithm),
    #[error("{0}")]
    Algorithm(#[from] crate::UnsupportedAlgorithm),
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("the variable {0} is not set")]
    NoVariable(String),
    #[error("{}: {error}", source_name)]
    Invalid { source_name: String, error: InvalidKey },
}

/// Stands for the content of everything that was read, to notice a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

/// Reads the issuers file at `path` and the keys that it names. Relative paths in it start at its directory.
/// `variable` gives the values of environment variables, and fetched sets of keys notify `changes`.
pub(crate) fn load(
    path: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
    changes: &KeyChanges,
) -> Result<(Issuers, Fingerprint), IssuersError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let digest = digest::Context::new(&digest::SHA256);
    let mut loader = Loader { directory, variable, changes, digest };
    let issuers =
        loader.load(path).map_err(|reason| IssuersError { path: path.to_owned(), reason })?;
    let mut fingerprint = Fingerprint([0; 32]);
    fingerprint.0.copy_from_slice(loader.digest.finish().as_ref());
    Ok((issuers, fingerprint))
}

struct Loader<'a> {
    directory: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
    changes: &'a KeyChanges,
    digest: digest::Context,
}

/// Maximum size of the issuers file and of each file that it names, in bytes: not to read a device or a log
/// by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Loader<'_> {
    fn load(&mut self, path: &Path) -> Result<Issuers, Reason> {
        let text = self.read(path)?;
        let text = String::from_utf8(text)
            .map_err(|_| Reason::Syntax { line: 1, message: "the file is not UTF-8".to_owned() })?;
        let IssuersFile { issuer: tables } = toml::from_str(&text).map_err(|error| {
            // Not the text of the error itself: it quotes the line, which may have a secret by mistake. Nor the
            // value that its message quotes.
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
            Reason::Syntax { line, message: without_quoted(error.message()) }
        })?;
        let mut issuers = BTreeMap::new();
        for table in tables {
            let name = table.issuer.clone();
            let issuer = self
                .issuer(table)
                .and_then(|issuer| match issuers.contains_key(&issuer.name) {
                    true => Err(IssuerReason::Duplicate),
                    false => Ok(issuer),
                })
                .map_err(|reason| Reason::Issuer { issuer: name, reason })?;
            issuers.insert(issuer.name.clone(), issuer);
        }
        // No issuer must not mean that everything is allowed.
        if issuers.is_empty() { Err(Reason::NoIssuer) } else { Ok(Issuers(issuers)) }
    }

    fn issuer(&mut self, table: IssuerTable) -> Result<Issuer, IssuerReason> {
        let IssuerTable { issuer, audience, algorithms, typ, jwks, jwks_file, key } = table;
        for (name, value) in [("issuer", &issuer), ("audience", &audience)] {
            if value.is_empty() {
                return Err(IssuerReason::Empty(name));
            }
        }
        let allowed: Option<Vec<Algorithm>> =
            algorithms.map(|names| names.iter().map(|name| name.parse()).collect()).transpose()?;
        let is_single_keys = jwks.is_none() && jwks_file.is_none();
        let keys = match (jwks, jwks_file, key.is_empty()) {
            (Some(url), None, true) => {
                let allowed = allowed.unwrap_or_else(|| Algorithm::ASYMMETRIC.to_vec());
                if allowed.contains(&Algorithm::Hs256) {
                    return Err(IssuerReason::FetchedSecret);
                }
                Keys::Fetched(JwksSource::new(&issuer, &url, allowed, self.changes.clone())?.into())
            }
            (None, Some(file), true) => {
                let allowed = allowed.unwrap_or_else(|| Algorithm::ASYMMETRIC.to_vec());
                Keys::Static(self.key_set(&self.directory.join(file), &allowed)?)
            }
            (None, None, false) => Keys::Static(self.single_keys(key, allowed.as_deref())?),
            _ => return Err(IssuerReason::KeySource),
        };
        let token_type = match typ {
            Some(typ) => TokenType::Only(typ),
            None if is_single_keys => TokenType::Any,
            None => TokenType::Only(ACCESS_TOKEN.to_owned()),
        };
        Ok(Issuer { name: issuer.into(), audience, token_type, keys })
    }

    fn key_set(
        &mut self,
        path: &Path,
        allowed: &[Algorithm],
    ) -> Result<BTreeMap<Option<String>, VerificationKey>, IssuerReason> {
        let text = self
            .read(path)
            .map_err(|error| IssuerReason::Unreadable { path: path.to_owned(), error })?;
        match KeySetDocument::read(&text, allowed) {
            Ok(document) => Ok(document.keys),
            Err(reason) => Err(IssuerReason::KeySet { path: path.to_owned(), reason }),
        }
    }

    fn single_keys(
        &mut self,
        tables: Vec<KeyTable>,
        allowed: Option<&[Algorithm]>,
    ) -> Result<BTreeMap<Option<String>, VerificationKey>, IssuerReason> {
        let is_several = tables.len() > 1;
        let mut keys = BTreeMap::new();
        for table in tables {
            let id = table.id.clone();
            let key = self.single_key(table, allowed).and_then(|key| {
                let is_ambiguous = keys.contains_key(&id) || is_several && id.is_none();
                if is_ambiguous { Err(KeyReason::Duplicate) } else { Ok(key) }
            });
            let key = key.map_err(|reason| {
                let id = id.as_ref().map_or("without id".to_owned(), |id| format!("{id:?}"));
                IssuerReason::Key { id, reason }
            })?;
            keys.insert(id, key);
        }
        Ok(keys)
    }

    fn single_key(
        &mut self,
        table: KeyTable,
        allowed: Option<&[Algorithm]>,
    ) -> Result<VerificationKey, KeyReason> {
        let KeyTable { id: _, algorithm, public_key, file, secret_file, secret_env } = table;
        let algorithm: Algorithm = algorithm.parse()?;
        if allowed.is_some_and(|allowed| !allowed.contains(&algorithm)) {
            return Err(KeyReason::AlgorithmNotAllowed(algorithm));
        }
        let is_secret = algorithm == Algorithm::Hs256;
        let (source_name, key) = match (public_key, file, secret_file, secret_env) {
            (Some(_), None, None, None) | (None, Some(_), None, None) if is_secret => {
                return Err(KeyReason::PublicKeyOfSecret);
            }
            // The issuers file itself was read with its digest.
            (Some(text), None, None, None) => {
                ("public-key".to_owned(), VerificationKey::read(text.as_bytes(), algorithm))
            }
            (None, Some(file), None, None) => {
                let path = self.directory.join(file);
                let text = self.read_key(&path)?;
                (path.display().to_string(), VerificationKey::read(&text, algorithm))
            }
            (None, None, Some(_), None) | (None, None, None, Some(_)) if !is_secret => {
                return Err(KeyReason::SecretOfPublicKey);
            }
            (None, None, Some(file), None) => {
                let path = self.directory.join(file);
                let text = self.read_key(&path)?;
                (path.display().to_string(), VerificationKey::secret_file(&text))
            }
            (None, None, None, Some(name)) => {
                let secret =
                    (self.variable)(&name).ok_or_else(|| KeyReason::NoVariable(name.clone()))?;
                self.digest.update(secret.as_bytes());
                (name, VerificationKey::secret(secret.as_bytes()))
            }
            _ => return Err(KeyReason::Source),
        };
        key.map_err(|error| KeyReason::Invalid { source_name, error })
    }

    fn read_key(&mut self, path: &Path) -> Result<Vec<u8>, KeyReason> {
        self.read(path).map_err(|error| KeyReason::Unreadable { path: path.to_owned(), error })
    }

    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            let message = format!("the file is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        // With its length, so that moving bytes from one file to the next is a change.
        self.digest.update(&content.len().to_be_bytes());
        self.digest.update(&content);
        Ok(content)
    }
}

/// A message without the text between its first and its last quotation mark.
fn without_quoted(message: &str) -> String {
    let quoted = message.split_once('"').zip(message.rsplit_once('"'));
    match quoted {
        Some(((before, _), (_, after))) => format!("{before}\"…\"{after}"),
        None => message.to_owned(),
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

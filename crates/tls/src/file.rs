//! Reading of small files, and the digest that shows whether their content changed.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ring::digest::{Context, Digest, SHA256};

use crate::CertificateError;

/// Maximum size of a file. A list of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The content of a file.
pub(crate) struct Content {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a file. Symlinks are followed at each call, because Kubernetes replaces the files of a secret by
/// changing the target of one.
pub(crate) fn read(path: &Path) -> Result<Content, CertificateError> {
    let read_error = |source| CertificateError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(read_error)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CertificateError::TooLong { path: path.to_owned(), max: FILE_BYTES_MAX });
    }
    Ok(Content { path: path.to_owned(), bytes })
}

/// The digest of the content of several files, in their order.
pub(crate) fn digest(contents: &[Content]) -> Digest {
    let mut context = Context::new(&SHA256);
    for content in contents {
        context.update(&(content.bytes.len() as u64).to_be_bytes());
        context.update(&content.bytes);
    }
    context.finish()
}

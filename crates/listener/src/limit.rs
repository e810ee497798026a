//! The limit of open file descriptors of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard limit, and returns the resulting soft limit. Many
/// systems start a service with 1,024 for programs that use `select`; a node needs one descriptor for each
/// client.
///
/// If the system rejects the change, the limit is unchanged and a warning is logged.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit { current: maximum, maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, ?current, ?maximum, "cannot raise the limit of open files");
        }
    }
    soft_limit()
}

/// The current soft limit; `u64::MAX` if there is none.
pub(crate) fn soft_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_raised_to_the_hard_one() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let low = Rlimit { current: current.map(|limit| limit.min(512)), maximum };
        setrlimit(Resource::Nofile, low).expect("a lower limit is always allowed");
        assert_eq!(raise_descriptor_limit(), maximum.unwrap_or(u64::MAX));
        assert_eq!(soft_limit(), maximum.unwrap_or(u64::MAX));
    }
}

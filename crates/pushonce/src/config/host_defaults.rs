//! Defaults that depend on the machine and the user.

use std::path::{Path, PathBuf};

/// The parts of the host environment that defaults are derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDefaults {
    /// The directory that holds node data by default. Absolute.
    pub data_home: PathBuf,
    /// The directory that relative paths are resolved against. Absolute.
    pub working_dir: PathBuf,
}

impl HostDefaults {
    /// Reads the environment of this process.
    pub fn detect() -> HostDefaults {
        let root = rustix::process::geteuid().is_root();
        HostDefaults {
            data_home: default_data_home(root, |name| std::env::var_os(name).map(PathBuf::from)),
            working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        }
    }

    /// Makes a path absolute.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.working_dir.join(path)
    }
}

/// The XDG data directory, or `/var/lib/pushonce` for root without `XDG_DATA_HOME`. A relative variable is
/// ignored, as the XDG specification demands.
fn default_data_home(is_root: bool, env: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| env(name).filter(|path| path.is_absolute());
    let home =
        || absolute("HOME").filter(|_| !is_root).map(|home| home.join(".local").join("share"));
    absolute("XDG_DATA_HOME")
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("pushonce")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_data_home_is_absolute_and_depends_on_the_user() {
        let home = |root, set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            default_data_home(root, |name| {
                set.iter().find(|(key, _)| key == name).map(|(_, path)| PathBuf::from(path))
            })
        };
        let user = [("HOME", "/home/a")];
        assert_eq!(home(false, &user), PathBuf::from("/home/a/.local/share/pushonce"));
        assert_eq!(home(true, &user), PathBuf::from("/var/lib/pushonce"));
        let xdg = [("HOME", "/home/a"), ("XDG_DATA_HOME", "/data")];
        assert_eq!(home(false, &xdg), PathBuf::from("/data/pushonce"));
        assert_eq!(home(true, &xdg), PathBuf::from("/data/pushonce"));
        assert_eq!(home(false, &[("HOME", "a")]), PathBuf::from("/var/lib/pushonce"));
    }
}

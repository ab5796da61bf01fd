//! Finds the server programs, and the account to run them as, because PostgreSQL refuses to run as root.

use super::error::ThrowawayError;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that holds `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Searches USERS_SYNC_PG_BIN, then PATH, then `/usr/lib/postgresql/*/bin` for the newest version.
    pub fn find() -> Result<Binaries, ThrowawayError> {
        if let Some(dir) = std::env::var_os("USERS_SYNC_PG_BIN").map(PathBuf::from) {
            return Binaries::at(dir);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .find(|dir| holds_server(dir))
            .or_else(|| newest(Path::new("/usr/lib/postgresql")))
            .map(|dir| Binaries { dir })
            .ok_or(ThrowawayError::NoBinaries)
    }

    /// Uses this directory. Fails if it lacks one of the two programs.
    pub fn at(dir: impl Into<PathBuf>) -> Result<Binaries, ThrowawayError> {
        let dir = dir.into();
        if holds_server(&dir) { Ok(Binaries { dir }) } else { Err(ThrowawayError::NotBinaries(dir)) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn holds_server(dir: &Path) -> bool {
    dir.is_absolute() && ["initdb", "postgres"].iter().all(|name| dir.join(name).is_file())
}

/// The `bin` of the highest version among the directories `15`, `16`, ... below `root`.
fn newest(root: &Path) -> Option<PathBuf> {
    let version = |dir: &Path| dir.file_name()?.to_str()?.parse::<u32>().ok();
    std::fs::read_dir(root)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|dir| Some((version(&dir)?, dir.join("bin"))))
        .filter(|(_, bin)| holds_server(bin))
        .max()
        .map(|(_, bin)| bin)
}

/// A Unix account that is not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Account {
    /// The account for the server if this process runs as root: `postgres`, or `nobody` if there is none.
    pub(crate) fn for_server() -> Result<Option<Account>, ThrowawayError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"].into_iter().find_map(Account::named).map(Some).ok_or(ThrowawayError::NoAccount)
    }

    /// Asks `id`, which knows every source of accounts, not only /etc/passwd.
    fn named(name: &str) -> Option<Account> {
        let number = |flag: &str| {
            let output = Command::new("id").args([flag, name]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
        };
        Some(Account { uid: number("-u")?, gid: number("-g")? }).filter(|account| account.uid != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_installation_is_chosen_by_number() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16"] {
            let bin = root.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            std::fs::write(bin.join("initdb"), "").unwrap();
            if version != "16" {
                std::fs::write(bin.join("postgres"), "").unwrap();
            }
        }
        assert_eq!(newest(root.path()), Some(root.path().join("15/bin")));
        assert_eq!(newest(&root.path().join("nothing")), None);
    }
}

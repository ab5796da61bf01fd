//! A file of the spool: compressed users of one scan, on disk but without a name, so that nothing remains after a crash.

use super::budget::Budget;
use super::encoding::{decode, encode};
use crate::model::User;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Extents begin at multiples of this size: only whole blocks can be given back to the file system.
const BLOCK: u64 = 4096;

/// Users in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    at: u64,
    length: usize,
}

impl Extent {
    /// Bytes on disk.
    pub(super) fn size(self) -> u64 {
        size_on_disk(self.length)
    }
}

/// What `length` bytes take on disk.
pub(super) fn size_on_disk(length: usize) -> u64 {
    (length as u64).next_multiple_of(BLOCK)
}

#[derive(Debug)]
pub(super) struct SpoolFile {
    file: File,
    budget: Arc<Budget>,
    /// Bytes of released extents that the file system keeps until the file is closed.
    kept: AtomicU64,
}

impl SpoolFile {
    pub(super) fn create(directory: &Path, budget: Arc<Budget>) -> io::Result<SpoolFile> {
        Ok(SpoolFile { file: create_file(directory)?, budget, kept: AtomicU64::new(0) })
    }

    /// A file on a disk that is full.
    #[cfg(test)]
    pub(super) fn on_full_disk(budget: Arc<Budget>) -> SpoolFile {
        let file = File::options().write(true).open("/dev/full").unwrap();
        SpoolFile { file, budget, kept: AtomicU64::new(0) }
    }

    /// Writes bytes of [`compress`] at `at`, a multiple of the block size.
    pub(super) fn write(&self, at: u64, compressed: &[u8]) -> io::Result<Extent> {
        self.file.write_all_at(compressed, at)?;
        Ok(Extent { at, length: compressed.len() })
    }

    pub(super) fn read(&self, extent: Extent) -> io::Result<Vec<User>> {
        let mut compressed = vec![0; extent.length];
        self.file.read_exact_at(&mut compressed, extent.at)?;
        let users = lz4_flex::decompress_size_prepended(&compressed).ok().and_then(|bytes| decode(&bytes));
        users.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its content has changed"))
    }

    /// Gives the disk space of an extent back: now, or with the file where the file system cannot free a part of it.
    pub(super) fn release(&self, extent: Extent) {
        if self.punch(extent) {
            self.budget.free_disk(extent.size());
        } else {
            self.kept.fetch_add(extent.size(), Ordering::Relaxed);
        }
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, extent: Extent) -> bool {
        use rustix::fs::{FallocateFlags, fallocate};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, extent.at, extent.size()).is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn punch(&self, _: Extent) -> bool {
        false
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.budget.free_disk(*self.kept.get_mut());
    }
}

/// Creates a file that only this user can open. It has no name, or loses it at once where the file system requires one.
pub(super) fn create_file(directory: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(directory)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

pub(super) fn compress(users: &[User]) -> Vec<u8> {
    let mut bytes = Vec::new();
    users.iter().for_each(|user| encode(&mut bytes, user));
    lz4_flex::compress_prepend_size(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Memory;

    #[test]
    fn a_file_is_readable_by_this_user_only_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let budget = Arc::new(Budget::new(Arc::new(Memory::new(1)), 1));
        let file = SpoolFile::create(directory.path(), budget).unwrap();
        assert_eq!(file.file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

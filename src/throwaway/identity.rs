//! The system identifier of a copied cluster: in pg_control, and in the header of each segment of the WAL.

use super::error::ThrowawayError;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// `xlp_sysid` in the header of a segment's first page, which has no checksum.
const SEGMENT_IDENTIFIER: usize = 24;
/// `system_identifier` is the first field of pg_control.
const IDENTIFIER: std::ops::Range<usize> = 0..8;

/// Makes the stopped copy of a cluster another system, because replication compares identifiers. initdb takes one from the clock
/// and its process id; a random one repeats as rarely.
pub(super) fn renew(data: &Path) -> Result<(), ThrowawayError> {
    let failed =
        |path: &Path| ThrowawayError::io(format!("give a copied cluster another identifier in {}", path.display()));
    let path = data.join("global/pg_control");
    let mut control = std::fs::read(&path).map_err(failed(&path))?;
    let identifier = fastrand::i64(1..).to_ne_bytes();
    let Some(old) = replace_identifier(&mut control, identifier) else {
        return Err(failed(&path)(Error::new(ErrorKind::InvalidData, "its checksum was not found")));
    };
    std::fs::write(&path, control).map_err(failed(&path))?;
    let wal = data.join("pg_wal");
    for entry in std::fs::read_dir(&wal).map_err(failed(&wal))? {
        let segment = entry.map_err(failed(&wal))?.path();
        if segment.is_file() {
            renew_in_segment(&segment, old, identifier).map_err(failed(&segment))?;
        }
    }
    Ok(())
}

/// The server compares the identifier of each segment that it reads.
fn renew_in_segment(path: &Path, old: [u8; 8], new: [u8; 8]) -> std::io::Result<()> {
    let mut file = std::fs::File::options().read(true).write(true).open(path)?;
    let at = SeekFrom::Start(SEGMENT_IDENTIFIER as u64);
    let mut found = [0; 8];
    file.seek(at)?;
    file.read_exact(&mut found)?;
    if found != old {
        return Err(Error::new(ErrorKind::InvalidData, "the segment's header does not have that of pg_control"));
    }
    file.seek(at)?;
    file.write_all(&new)
}

/// Returns the old identifier, or nothing if there is no checksum: it follows the fields, whose length differs by version.
fn replace_identifier(control: &mut [u8], new: [u8; 8]) -> Option<[u8; 8]> {
    let old = control.get(IDENTIFIER)?.try_into().ok()?;
    let is_checksum = |at: &usize| control.get(*at..at + 4) == Some(&crc32c(&control[..*at]).to_ne_bytes()[..]);
    let at = (IDENTIFIER.end..control.len()).step_by(4).find(is_checksum)?;
    control[IDENTIFIER].copy_from_slice(&new);
    let checksum = crc32c(&control[..at]).to_ne_bytes();
    control[at..at + 4].copy_from_slice(&checksum);
    Some(old)
}

/// PostgreSQL's checksum: Castagnoli's polynomial, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_new_identifier_has_a_new_checksum_wherever_it_is() {
        for fields in [288, 296] {
            let mut control = vec![7; fields];
            control.extend(crc32c(&control).to_ne_bytes());
            control.resize(8192, 0);
            assert_eq!(replace_identifier(&mut control, [9; 8]), Some([7; 8]));
            assert_eq!(control[..9], [9, 9, 9, 9, 9, 9, 9, 9, 7]);
            assert_eq!(control[fields..fields + 4], crc32c(&control[..fields]).to_ne_bytes());
        }
        assert_eq!(replace_identifier(&mut [7; 512], [9; 8]), None);
    }
}

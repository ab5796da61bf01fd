//! The form of a user's id in `users_sync.rejected`. Pure.
//!
//! The id of a rejected user may have characters that the target's encoding lacks. They are escaped, for people who
//! read the table; the key is a hash of the id.

use std::borrow::Cow;
use std::fmt::Write;

/// Which characters a target can store, by its `server_encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repertoire {
    /// UTF8, and SQL_ASCII, which stores any bytes.
    Everything,
    /// LATIN1.
    Latin1,
    /// All encodings have these. Which others one has is not worth a table.
    Ascii,
}

impl Repertoire {
    pub(crate) fn of_encoding(server_encoding: &str) -> Repertoire {
        match server_encoding {
            "UTF8" | "SQL_ASCII" => Repertoire::Everything,
            "LATIN1" => Repertoire::Latin1,
            _ => Repertoire::Ascii,
        }
    }

    fn has(self, character: char) -> bool {
        match self {
            Repertoire::Everything => true,
            Repertoire::Latin1 => character <= '\u{ff}',
            Repertoire::Ascii => character.is_ascii(),
        }
    }

    /// The id; if it has characters that the target may lack, with these as `\u{1F600}` and with `\\` for each backslash.
    pub(crate) fn stored_id(self, id: &str) -> Cow<'_, str> {
        if id.chars().all(|character| self.has(character)) {
            return Cow::Borrowed(id);
        }
        let mut stored = String::with_capacity(2 * id.len());
        for character in id.chars() {
            match character {
                '\\' => stored.push_str(r"\\"),
                character if self.has(character) => stored.push(character),
                // Writing to a string cannot fail.
                character => _ = write!(stored, r"\u{{{:X}}}", u32::from(character)),
            }
        }
        Cow::Owned(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_the_encoding_lacks_are_escaped() {
        for (encoding, id, stored) in [
            ("UTF8", r"a\ü€😀", r"a\ü€😀"),
            ("SQL_ASCII", "€", "€"),
            ("LATIN1", r"a\ü", r"a\ü"),
            ("LATIN1", r"a\ü€", r"a\\ü\u{20AC}"),
            ("WIN1252", r"a\", r"a\"),
            ("WIN1252", r"ü😀", r"\u{FC}\u{1F600}"),
        ] {
            assert_eq!(Repertoire::of_encoding(encoding).stored_id(id), stored, "{encoding} {id}");
        }
    }
}

//! Writes text as JSON or as a shell's word, and cuts text that others wrote. Pure.

use std::borrow::Cow;

/// Most bytes that are kept or shown of a text that a database or a person outside wrote.
pub(crate) const MAX_FOREIGN_TEXT: usize = 1000;

/// Cuts text to [`MAX_FOREIGN_TEXT`] bytes at a character boundary, with an ellipsis if something was cut.
pub(crate) fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_FOREIGN_TEXT {
        return Cow::Borrowed(text);
    }
    const ELLIPSIS: &str = "…";
    let end = text.floor_char_boundary(MAX_FOREIGN_TEXT - ELLIPSIS.len());
    Cow::Owned(format!("{}{ELLIPSIS}", &text[..end]))
}

/// Text that others wrote, for a terminal or a log: control and bidirectional characters become `\u001b` and so on, the
/// escapes of JSON. Line breaks and tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_deceptive(c) && !matches!(c, '\n' | '\t'))
}

/// As [`printable`], on one line.
pub(crate) fn printable_line(text: &str) -> Cow<'_, str> {
    escape(text, is_deceptive)
}

/// Characters that a terminal obeys instead of showing them, or that change the order or the end of a line: C0, DEL and
/// C1, the marks, embeddings and isolates of the bidirectional algorithm, and Unicode's line breaks.
fn is_deceptive(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

fn escape(text: &str, escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if escaped(c) => out.push_str("\\n"),
            '\t' if escaped(c) => out.push_str("\\t"),
            c if escaped(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Appends a JSON string: quotes, backslashes and control characters are escaped, other characters are
/// copied.
pub(crate) fn push_string(text: &str, out: &mut String) {
    out.push('"');
    let mut done = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        // Escaped bytes are ASCII, so both ends of the slice are character boundaries.
        out.push_str(&text[done..i]);
        done = i + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out.push_str(&text[done..]);
    out.push('"');
}

/// An argument of a command, quoted where a shell would change it.
pub(crate) fn shell_word(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// A part of an environment variable's name: upper-case letters, digits and underscores.
pub(crate) fn variable_word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidirectional_characters_are_escaped() {
        let mut others = vec!['\u{7f}', '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
        others.extend(('\0'..'\t').chain('\u{b}'..' ').chain('\u{80}'..='\u{9f}'));
        others.extend(('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}'));
        for c in others {
            let expected = format!("a\\u{:04x}b", u32::from(c));
            assert_eq!(printable(&format!("a{c}b")), expected);
            assert_eq!(printable_line(&format!("a{c}b")), expected);
            // Inside of a JSON string, the text stays the same.
            let json = format!("\"{expected}\"");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), format!("a{c}b"));
        }
        assert_eq!(printable("é 漢字 🦀\n\t\\"), "é 漢字 🦀\n\t\\");
        assert_eq!(printable_line("a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn long_text_is_cut_at_a_character_boundary() {
        assert_eq!(clip("short"), "short");
        let exact = "x".repeat(MAX_FOREIGN_TEXT);
        assert_eq!(clip(&exact), exact);
        for text in ["x".repeat(MAX_FOREIGN_TEXT + 1), "é".repeat(5000), format!("x{}", "🦀".repeat(5000))] {
            let cut = clip(&text);
            assert!(cut.len() <= MAX_FOREIGN_TEXT && cut.len() > MAX_FOREIGN_TEXT - 8, "{}", cut.len());
            assert!(cut.ends_with('…') && text.starts_with(cut.trim_end_matches('…')));
        }
    }

    #[test]
    fn a_shell_gets_a_word_unchanged() {
        for (word, expected) in [("acme-1.eu", "acme-1.eu"), ("a b", "'a b'"), ("", "''"), ("$(x)'", r"'$(x)'\'''")] {
            assert_eq!(shell_word(word), expected);
        }
    }
}

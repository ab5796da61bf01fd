//! Writes text as JSON, and cuts text that others wrote. Pure.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}

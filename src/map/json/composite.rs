//! The text of a composite value (manual: "Composite Type Input and Output Syntax"): `(1,"a ""b""",)`. Pure.

use super::malformed::Malformed;
use std::borrow::Cow;

const MALFORMED: Malformed = Malformed("composite value");

/// Appends the value as a JSON object with these keys, each with its colon; `append_field` appends each field that is
/// not null, by its index.
pub(super) fn append<'a>(
    text: &str,
    keys: impl Iterator<Item = &'a str>,
    out: &mut String,
    mut append_field: impl FnMut(usize, &str, &mut String) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut rest = text.strip_prefix('(').ok_or(MALFORMED)?;
    out.push('{');
    for (i, key) in keys.enumerate() {
        if i > 0 {
            rest = rest.strip_prefix(',').ok_or(MALFORMED)?;
            out.push(',');
        }
        out.push_str(key);
        let (field, after) = take_field(rest)?;
        match field {
            Some(field) => append_field(i, &field, out)?,
            None => out.push_str("null"),
        }
        rest = after;
    }
    out.push('}');
    if rest == ")" { Ok(()) } else { Err(MALFORMED) }
}

/// One field and the rest of the text. An empty field is null; a quoted empty field is an empty text.
/// As in record_in, quotes may begin and end anywhere, and are doubled or escaped as literals.
fn take_field(text: &str) -> Result<(Option<Cow<'_, str>>, &str), Malformed> {
    let mut field = Cow::Borrowed("");
    let mut quoted = false;
    let mut done = 0;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b',' | b')' if !quoted => {
                field += &text[done..i];
                return Ok(((i > 0).then_some(field), &text[i..]));
            }
            b'\\' => {
                field += &text[done..i];
                done = i + 1;
                bytes.next();
            }
            b'"' => {
                field += &text[done..i];
                done = i + 1;
                let doubled = quoted && bytes.peek().is_some_and(|(_, next)| *next == b'"');
                if doubled {
                    // The second quote is copied with the text after it.
                    bytes.next();
                } else {
                    quoted = !quoted;
                }
            }
            _ => {}
        }
    }
    Err(MALFORMED)
}

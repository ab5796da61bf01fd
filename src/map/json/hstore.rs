//! The text of a value of the extension hstore (manual: "hstore External Representation"): `"a"=>"1", "b"=>NULL`. Pure.

use super::malformed::Malformed;
use crate::model::push_string;
use std::borrow::Cow;

const MALFORMED: Malformed = Malformed("hstore value");

/// Appends the value as a JSON object. As in hstore_to_json, every value that is not null is a string.
pub(super) fn append(text: &str, out: &mut String) -> Result<(), Malformed> {
    let mut rest = text;
    out.push('{');
    while !rest.is_empty() {
        if rest.len() < text.len() {
            rest = rest.strip_prefix(", ").ok_or(MALFORMED)?;
            out.push(',');
        }
        let (key, after) = take_quoted(rest)?;
        push_string(&key, out);
        out.push(':');
        let value = after.strip_prefix("=>").ok_or(MALFORMED)?;
        rest = match value.strip_prefix("NULL") {
            Some(after) => {
                out.push_str("null");
                after
            }
            None => {
                let (value, after) = take_quoted(value)?;
                push_string(&value, out);
                after
            }
        };
    }
    out.push('}');
    Ok(())
}

/// From one quote to the next, without the backslashes, and the rest of the text. hstore_out quotes every key and value.
fn take_quoted(text: &str) -> Result<(Cow<'_, str>, &str), Malformed> {
    let text = text.strip_prefix('"').ok_or(MALFORMED)?;
    let mut taken = Cow::Borrowed("");
    let mut done = 0;
    let mut bytes = text.bytes().enumerate();
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'"' => {
                taken += &text[done..i];
                return Ok((taken, &text[i + 1..]));
            }
            b'\\' => {
                taken += &text[done..i];
                // The escaped character is copied with the text after it.
                done = i + 1;
                bytes.next();
            }
            _ => {}
        }
    }
    Err(MALFORMED)
}

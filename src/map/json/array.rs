//! The text of an array (manual: "Array Input and Output Syntax"): `{1,NULL,"a b"}`, `{{1},{2}}`, `[2:3]={1,2}`. Pure.

use super::malformed::Malformed;
use std::borrow::Cow;

/// PostgreSQL's limit (MAXDIM of array.h).
const MAX_DIMENSIONS: usize = 6;

const MALFORMED: Malformed = Malformed("array");

/// Appends the array as JSON; `append_element` appends each element that is not null.
pub(super) fn append(
    text: &str,
    delimiter: u8,
    out: &mut String,
    mut append_element: impl FnMut(&str, &mut String) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    // Lower bounds other than 1 stand before the braces; `to_jsonb` drops them.
    let body = match text.strip_prefix('[') {
        Some(_) => text.split_once('=').ok_or(MALFORMED)?.1,
        None => text,
    };
    let mut reader = Reader { text: body, at: 0 };
    let mut depth = 0;
    // Whether an element or `{` may follow; otherwise a delimiter or `}`.
    let mut expects_element = true;
    loop {
        match reader.peek()? {
            b'{' if expects_element && depth < MAX_DIMENSIONS => {
                reader.at += 1;
                depth += 1;
                out.push('[');
                if reader.peek()? == b'}' {
                    expects_element = false;
                }
            }
            b'}' if !expects_element && depth > 0 => {
                reader.at += 1;
                depth -= 1;
                out.push(']');
                if depth == 0 {
                    return if reader.at == body.len() { Ok(()) } else { Err(MALFORMED) };
                }
            }
            byte if byte == delimiter && !expects_element && depth > 0 => {
                reader.at += 1;
                out.push(',');
                expects_element = true;
            }
            b'"' if expects_element && depth > 0 => {
                append_element(&reader.quoted()?, out)?;
                expects_element = false;
            }
            _ if expects_element && depth > 0 => {
                match reader.bare(delimiter)? {
                    "NULL" => out.push_str("null"),
                    item => append_element(item, out)?,
                }
                expects_element = false;
            }
            _ => return Err(MALFORMED),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, Malformed> {
        self.text.as_bytes().get(self.at).copied().ok_or(MALFORMED)
    }

    /// Up to the delimiter or a brace; never empty.
    fn bare(&mut self, delimiter: u8) -> Result<&'a str, Malformed> {
        let rest = &self.text[self.at..];
        let ends = |b: u8| b == delimiter || matches!(b, b'{' | b'}' | b'"' | b'\\');
        let length = rest.bytes().position(ends).filter(|&length| length > 0).ok_or(MALFORMED)?;
        // A delimiter is ASCII in every known type; `get` guards against any other catalog.
        let item = rest.get(..length).ok_or(MALFORMED)?;
        self.at += length;
        Ok(item)
    }

    /// From one quote to the next, without the backslashes.
    fn quoted(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let rest = &self.text[self.at + 1..];
        let mut item = Cow::Borrowed("");
        let mut done = 0;
        let mut bytes = rest.bytes().enumerate();
        while let Some((i, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.at += i + 2;
                    item += &rest[done..i];
                    return Ok(item);
                }
                b'\\' => {
                    item += &rest[done..i];
                    // The escaped character is copied with the text after it.
                    done = i + 1;
                    bytes.next();
                }
                _ => {}
            }
        }
        Err(MALFORMED)
    }
}

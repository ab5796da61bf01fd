//! Whether a text can be a value of a column by which rows are looked up. Pure.

use super::json::oid;
use crate::model::Oid;

/// Digits of a uuid.
const UUID_DIGITS: usize = 32;

/// Whether the text may be converted to the type. A conversion that fails would end the whole lookup, and the text may come from
/// a target: its owner can insert a row with any id. For other types than integers and uuid, the server decides.
pub(crate) fn may_be(type_oid: Oid, text: &str) -> bool {
    let number = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    match type_oid {
        oid::INT2 => number.parse::<i16>().is_ok(),
        oid::INT4 => number.parse::<i32>().is_ok(),
        oid::INT8 => number.parse::<i64>().is_ok(),
        oid::UUID => is_uuid(text),
        _ => true,
    }
}

/// 32 digits, in braces or not, with a hyphen after any group of four (manual: "UUID Type").
fn is_uuid(text: &str) -> bool {
    let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let (mut digits, mut may_be_hyphen) = (0, false);
    for c in bare.chars() {
        if c == '-' && may_be_hyphen {
            may_be_hyphen = false;
        } else if c.is_ascii_hexdigit() {
            digits += 1;
            may_be_hyphen = digits % 4 == 0 && digits < UUID_DIGITS;
        } else {
            return false;
        }
    }
    digits == UUID_DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_that_the_server_converts_are_looked_up() {
        let check = |type_oid, yes: &[&str], no: &[&str]| {
            yes.iter().for_each(|text| assert!(may_be(type_oid, text), "{text:?} is a value of type {type_oid}"));
            no.iter().for_each(|text| assert!(!may_be(type_oid, text), "{text:?} is no value of type {type_oid}"));
        };
        check(oid::INT2, &["0", "-32768", "+7", " 7\t"], &["32768", "", "x", "1.0", "7 7"]);
        check(oid::INT4, &["2147483647", "007"], &["2147483648", "1e3"]);
        check(oid::INT8, &["9223372036854775807"], &["9223372036854775808", "gone"]);
        let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let plain = uuid.replace('-', "");
        let yes =
            [uuid, &plain, &uuid.to_uppercase(), &format!("{{{uuid}}}"), "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11"];
        let no = [
            "",
            "gone",
            &uuid[1..],
            &format!("{uuid}0"),
            &format!("{uuid}-"),
            &format!("-{uuid}"),
            &format!("{{{uuid}"),
        ];
        check(oid::UUID, &yes, &no);
        check(
            oid::UUID,
            &[],
            &["a0e-ebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99--9c0b4ef8bb6d6bb9bd380a11", &format!(" {uuid}")],
        );
        check(oid::TEXT, &["", "anything"], &[]);
    }
}

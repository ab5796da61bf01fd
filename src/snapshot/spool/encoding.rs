//! The bytes of users in a file of the spool. The file is read by the process that wrote it, so the format may change with
//! every version. Pure.

use crate::model::{Timestamp, User};

/// Stands for a text that is null: no text is that long.
const NULL: u32 = u32::MAX;

/// Appends a user.
pub(super) fn encode(out: &mut Vec<u8>, user: &User) {
    put_text(out, Some(&user.id));
    put_text(out, Some(&user.raw_json));
    put_text(out, user.name.as_deref());
    put_text(out, user.email.as_deref());
    for time in [user.created_at, user.updated_at, user.deleted_at] {
        out.push(time.is_some().into());
        out.extend_from_slice(&time.map_or(0, |time| time.0).to_le_bytes());
    }
    out.push(user.updated_at_derived.into());
}

/// The users of these bytes; `None` if [`encode`] did not write them.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<User>> {
    let mut users = Vec::new();
    while !bytes.is_empty() {
        users.push(User {
            id: take_text(&mut bytes)??.into(),
            raw_json: take_text(&mut bytes)??,
            name: take_text(&mut bytes)?,
            email: take_text(&mut bytes)?,
            created_at: take_time(&mut bytes)?,
            updated_at: take_time(&mut bytes)?,
            deleted_at: take_time(&mut bytes)?,
            updated_at_derived: take::<1>(&mut bytes)? == [1],
        });
    }
    Some(users)
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    // A value of PostgreSQL has at most 1 GB.
    let length = text.map_or(NULL, |text| text.len() as u32);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// The inner value is `None` for null.
fn take_text(bytes: &mut &[u8]) -> Option<Option<String>> {
    let length = u32::from_le_bytes(take(bytes)?);
    if length == NULL {
        return Some(None);
    }
    let (text, rest) = bytes.split_at_checked(length as usize)?;
    *bytes = rest;
    Some(Some(String::from_utf8(text.to_vec()).ok()?))
}

fn take_time(bytes: &mut &[u8]) -> Option<Option<Timestamp>> {
    let is_some = take::<1>(bytes)? == [1];
    let time = i64::from_le_bytes(take(bytes)?);
    Some(is_some.then_some(Timestamp(time)))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn users_are_read_back_unchanged(
            texts in any::<(String, String, Option<String>, Option<String>)>(),
            times in any::<(Option<i64>, Option<i64>, Option<i64>)>(),
            derived: bool,
        ) {
            let user = User {
                id: texts.0.into(), raw_json: texts.1, name: texts.2, email: texts.3,
                created_at: times.0.map(Timestamp), updated_at: times.1.map(Timestamp),
                deleted_at: times.2.map(Timestamp), updated_at_derived: derived,
            };
            let mut bytes = Vec::new();
            encode(&mut bytes, &user);
            encode(&mut bytes, &user);
            prop_assert!(decode(&bytes) == Some(vec![user.clone(), user]));
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            if let Some(users) = decode(&bytes) {
                let mut again = Vec::new();
                users.iter().for_each(|user| encode(&mut again, user));
                prop_assert_eq!(again.len(), bytes.len());
            }
        }
    }
}

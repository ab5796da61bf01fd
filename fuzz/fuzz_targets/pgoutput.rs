//! Any bytes decode to a message or an error, and every row of a message can be read: `make fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use users_sync::capture::pgoutput::{Message, OldTuple, Tuple, parse_message};
use users_sync::model::Column;

fuzz_target!(|bytes: &[u8]| {
    match parse_message(bytes) {
        Ok(Message::Insert { new, .. }) => read(&new),
        Ok(Message::Update { old, new, .. }) => {
            old.iter().for_each(read_old);
            read(&new);
        }
        Ok(Message::Delete { old, .. }) => read_old(&old),
        Ok(_) | Err(_) => {}
    }
});

/// Reads rows of one to three columns. Mostly one of the three fits, and the others must be refused.
fn read(tuple: &Tuple<'_>) {
    for columns in 1..=3 {
        let _ = tuple.read_into(&vec![true; columns], &mut Vec::new());
    }
}

fn read_old(old: &OldTuple<'_>) {
    for columns in 1..=3 {
        let column = |n| Column { name: String::new(), type_oid: 25, in_identity: n == 0 };
        let columns: Vec<_> = (0..columns).map(column).collect();
        let _ = old.read_into(&vec![true; columns.len()], &columns, &mut Vec::new());
    }
}

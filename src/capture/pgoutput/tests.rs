//! Messages written by hand after the manual's layouts, and arbitrary bytes.

use super::*;
use proptest::prelude::*;

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn text(value: &str) -> Vec<u8> {
    [&b"t"[..], &(value.len() as u32).to_be_bytes(), value.as_bytes()].concat()
}

fn tuple(cells: &[Vec<u8>]) -> Vec<u8> {
    [(cells.len() as u16).to_be_bytes().to_vec(), cells.concat()].concat()
}

fn relation() -> Vec<u8> {
    [
        b"R".to_vec(),
        7u32.to_be_bytes().to_vec(),
        name(""),
        name("users"),
        b"d\0\x02\x01".to_vec(),
        name("id"),
        25u32.to_be_bytes().to_vec(),
        (-1i32).to_be_bytes().to_vec(),
        b"\0".to_vec(),
        name("email"),
        25u32.to_be_bytes().to_vec(),
        (-1i32).to_be_bytes().to_vec(),
    ]
    .concat()
}

fn dml(tag: u8, tail: &[Vec<u8>]) -> Vec<u8> {
    [vec![tag], 7u32.to_be_bytes().to_vec(), tail.concat()].concat()
}

#[test]
fn begin_and_commit_carry_both_positions() {
    let begin = [&b"B"[..], &0x10u64.to_be_bytes(), &5i64.to_be_bytes(), &9u32.to_be_bytes()].concat();
    assert!(matches!(
        parse_message(&begin),
        Ok(Message::Begin { commit_lsn: Lsn(0x10), commit_time: Timestamp(5), xid: Xid(9) })
    ));
    let commit = [&b"C\0"[..], &0x10u64.to_be_bytes(), &0x20u64.to_be_bytes(), &5i64.to_be_bytes()].concat();
    assert!(matches!(parse_message(&commit), Ok(Message::Commit { commit_lsn: Lsn(0x10), end_lsn: Lsn(0x20) })));
}

#[test]
fn a_relation_names_its_columns_and_the_empty_schema_is_pg_catalog() {
    let bytes = relation();
    let Ok(Message::Relation(relation)) = parse_message(&bytes) else { panic!("not a relation") };
    assert_eq!((relation.oid, relation.table.to_string().as_str()), (7, "pg_catalog.users"));
    assert_eq!(relation.replica_identity, ReplicaIdentity::Default);
    let columns: Vec<_> = relation.columns.iter().map(|c| (c.name.as_str(), c.type_oid, c.in_identity)).collect();
    assert_eq!(columns, [("id", 25, true), ("email", 25, false)]);
}

#[test]
fn excluded_values_never_become_cells() {
    let bytes = dml(b'I', &[b"N".to_vec(), tuple(&[text("u1"), text("secret")])]);
    let Ok(Message::Insert { relation: 7, new }) = parse_message(&bytes) else { panic!("not an insert") };
    let mut cells = Vec::new();
    new.read_into(&[true, false], &mut cells).unwrap();
    assert_eq!(cells, [Cell::Text(b"u1"), Cell::Excluded]);
    assert_eq!(new.read_into(&[true], &mut cells), Err(DecodeError::ColumnCount { expected: 1, found: 2 }));
}

#[test]
fn an_update_has_no_old_tuple_or_a_key_or_a_whole_row() {
    let new = || [b"N".to_vec(), tuple(&[text("u2"), b"u".to_vec()])].concat();
    let mut cells = Vec::new();
    let bytes = dml(b'U', &[new()]);
    assert!(matches!(parse_message(&bytes), Ok(Message::Update { old: None, .. })));

    let bytes = dml(b'U', &[b"K".to_vec(), tuple(&[text("u1"), b"n".to_vec()]), new()]);
    let Ok(Message::Update { old: Some(old), new: read, .. }) = parse_message(&bytes) else { panic!("no old key") };
    old.read_into(&[true, true], &mut cells).unwrap();
    assert_eq!(cells, [Cell::Text(b"u1"), Cell::Absent]);
    read.read_into(&[true, true], &mut cells).unwrap();
    assert_eq!(cells, [Cell::Text(b"u2"), Cell::Unchanged]);

    let bytes = dml(b'U', &[b"O".to_vec(), tuple(&[text("u1"), b"n".to_vec()]), new()]);
    let Ok(Message::Update { old: Some(old), .. }) = parse_message(&bytes) else { panic!("no old row") };
    old.read_into(&[true, true], &mut cells).unwrap();
    assert_eq!(cells, [Cell::Text(b"u1"), Cell::Null]);
}

/// The root of a partitioned table has another replica identity than the partition whose row it was.
#[test]
fn the_key_of_an_old_row_has_the_columns_that_were_sent() {
    let bytes = dml(b'D', &[b"K".to_vec(), tuple(&[b"n".to_vec(), text("acme")])]);
    let Ok(Message::Delete { old, .. }) = parse_message(&bytes) else { panic!("no delete") };
    let mut cells = Vec::new();
    old.read_into(&[true, true], &mut cells).unwrap();
    assert_eq!(cells, [Cell::Absent, Cell::Text(b"acme")]);
}

#[test]
fn deletes_truncates_and_other_messages_are_decoded() {
    let delete = dml(b'D', &[b"K".to_vec(), tuple(&[text("u1"), b"n".to_vec()])]);
    assert!(matches!(parse_message(&delete), Ok(Message::Delete { relation: 7, old: OldTuple::Key(_) })));
    let truncate = [&b"T"[..], &2u32.to_be_bytes(), &[1], &7u32.to_be_bytes(), &8u32.to_be_bytes()].concat();
    assert!(matches!(parse_message(&truncate), Ok(Message::Truncate { relations }) if relations == [7, 8]));
    let origin = [&b"O"[..], &1u64.to_be_bytes(), &name("elsewhere")].concat();
    assert!(matches!(parse_message(&origin), Ok(Message::Origin)));
    let kind = [&b"Y"[..], &1u32.to_be_bytes(), &name("public"), &name("mood")].concat();
    assert!(matches!(parse_message(&kind), Ok(Message::Type)));
    let logical = [&b"M\x01"[..], &1u64.to_be_bytes(), &name("p"), &2u32.to_be_bytes(), b"hi"].concat();
    assert!(matches!(parse_message(&logical), Ok(Message::Logical)));
}

#[test]
fn a_malformed_message_is_refused_with_its_offset() {
    let fails = |bytes: &[u8]| parse_message(bytes).map(|_| ()).unwrap_err();
    assert_eq!(fails(b""), DecodeError::Truncated("message tag"));
    assert_eq!(fails(b"?"), DecodeError::UnknownTag { expected: "message tag", found: b'?' });
    assert_eq!(fails(b"B\0"), DecodeError::Truncated("Begin position"));
    assert_eq!(fails(&[&relation()[..], b"x"].concat()), DecodeError::TrailingBytes(1));
    assert_eq!(fails(b"T\xff\xff\xff\xff\0"), DecodeError::Truncated("Truncate relation"));
    let negative = dml(b'I', &[b"N\0\x01t\xff\xff\xff\xff".to_vec()]);
    assert_eq!(fails(&negative), DecodeError::Truncated("value"));
    let binary = dml(b'I', &[b"N\0\x01b\0\0\0\0".to_vec()]);
    assert_eq!(fails(&binary), DecodeError::UnknownTag { expected: "value tag", found: b'b' });
    let key_where_the_row_should_be = dml(b'I', &[b"K".to_vec(), tuple(&[text("u1")])]);
    let expected = DecodeError::UnknownTag { expected: "Insert's new tuple", found: b'K' };
    assert_eq!(fails(&key_where_the_row_should_be), expected);
    let not_utf8 = [&b"O"[..], &1u64.to_be_bytes(), b"\xff\0"].concat();
    assert_eq!(fails(&not_utf8), DecodeError::NotUtf8("Origin name"));
}

/// One message of each kind.
fn good_messages() -> Vec<Vec<u8>> {
    let row = || [b"N".to_vec(), tuple(&[text("u2"), b"u".to_vec()])].concat();
    let old = |kind: &[u8]| [kind, &tuple(&[text("u1"), b"n".to_vec()])].concat();
    let numbers = |count: usize| vec![7; 8 * count];
    vec![
        relation(),
        dml(b'I', &[row()]),
        dml(b'U', &[row()]),
        dml(b'U', &[old(b"K"), row()]),
        dml(b'U', &[old(b"O"), row()]),
        dml(b'D', &[old(b"K")]),
        dml(b'D', &[old(b"O")]),
        [b"B".to_vec(), numbers(2), vec![7; 4]].concat(),
        [b"C\0".to_vec(), numbers(3)].concat(),
        [b"O".to_vec(), numbers(1), name("elsewhere")].concat(),
        [b"Y".to_vec(), vec![7; 4], name("public"), name("mood")].concat(),
        [b"T\0\0\0\x02\0".to_vec(), numbers(1)].concat(),
        [b"M\x01".to_vec(), numbers(1), name("p"), b"\0\0\0\x02hi".to_vec()].concat(),
    ]
}

#[test]
fn a_truncated_message_is_refused_at_every_length() {
    for bytes in good_messages() {
        read_everything(&bytes).unwrap();
        for end in 0..bytes.len() {
            let error = read_everything(&bytes[..end]).unwrap_err();
            assert!(matches!(error, DecodeError::Truncated(_)), "{bytes:?} cut at {end}: {error}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(tag in prop::sample::select(b"BCORYIUDTM?".to_vec()), tail: Vec<u8>) {
        let _ = read_everything(&[vec![tag], tail].concat());
    }

    #[test]
    fn no_damage_to_a_good_message_makes_the_decoder_panic(
        mut bytes in prop::sample::select(good_messages()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
    ) {
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read_everything(&bytes);
        let _ = read_everything(&bytes[..end.index(bytes.len())]);
    }
}

fn read_everything(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut cells = Vec::new();
    match parse_message(bytes)? {
        Message::Insert { new, .. } | Message::Update { old: None, new, .. } => {
            new.read_into(&[true, true], &mut cells)
        }
        Message::Update { old: Some(old), new, .. } => {
            new.read_into(&[true, false], &mut cells)?;
            old.read_into(&[true, true], &mut cells)
        }
        Message::Delete { old, .. } => old.read_into(&[true, true], &mut cells),
        _ => Ok(()),
    }
}

//! What each change of a shape means.

use super::model::{ColumnShape, PublicationShape, PublishedShape, TableShape, TypeShape};
use super::*;
use crate::model::{Oid, TableName};
use std::collections::BTreeMap;

fn leaf(oid: Oid, filenode: Oid) -> LeafShape {
    LeafShape {
        schema: "auth".into(),
        name: format!("users_{oid}"),
        oid,
        kind: "r".into(),
        persistence: "p".into(),
        filenode,
        identity: "d".into(),
        identity_columns: vec!["id".into()],
        attached_by: if oid == 1 { Vec::new() } else { vec![700] },
        is_created_attached: false,
    }
}

/// `auth.users` with the oid 1 and the columns id, mood and secret. `mood` has the enum type 20000.
fn table(leaves: Vec<LeafShape>) -> TableShape {
    let column = |name: &str, number: i32, type_oid: Oid| ColumnShape {
        name: name.into(),
        number,
        type_oid,
        typmod: -1,
        is_generated: false,
        is_virtual: false,
        version: 700,
    };
    let labels = BTreeMap::from([(1, "sad".to_owned()), (2, "happy".to_owned())]);
    TableShape {
        schema: "auth".into(),
        name: "users".into(),
        oid: 1,
        is_partitioned: leaves.iter().any(|leaf| leaf.oid != 1),
        row_security: false,
        columns: vec![column("id", 1, 25), column("mood", 2, 20_000), column("secret", 3, 25)],
        leaves,
        children: Vec::new(),
        types: BTreeMap::from([(20_000, TypeShape { labels, attributes: Vec::new(), inner: 0, json_cast: None })]),
        published: Some(PublishedShape { has_row_filter: false, columns: None }),
    }
}

fn shape(table: TableShape) -> SourceShape {
    let publication = PublicationShape {
        inserts: true,
        updates: true,
        deletes: true,
        truncates: true,
        via_root: true,
        generated: String::new(),
    };
    SourceShape { server_version: 150_000, tables: vec![table], publication: Some(publication) }
}

fn is_read(_: &TableName, column: &str) -> bool {
    column != "secret"
}

#[track_caller]
fn rows_change(expected: &str, alter: impl FnOnce(&mut TableShape)) {
    let known = shape(table(vec![leaf(1, 10)]));
    let mut now = known.clone();
    alter(&mut now.tables[0]);
    match compare(&known, &now, &is_read) {
        ShapeChange::Rows(why) => assert!(why.contains(expected), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_harmless(alter: impl FnOnce(&mut TableShape)) {
    let known = shape(table(vec![leaf(1, 10)]));
    let mut now = known.clone();
    alter(&mut now.tables[0]);
    assert_ne!(known, now);
    assert_eq!(compare(&known, &now, &is_read), ShapeChange::Harmless);
}

#[test]
fn a_change_that_makes_rows_read_differently_is_found() {
    rows_change("replaced", |table| table.oid = 2);
    rows_change("dropped and added again", |table| table.columns[0].number = 4);
    rows_change("column id was altered", |table| table.columns[0].typmod = 14);
    rows_change("column mood was altered", |table| table.columns[1].is_generated = true);
    let kind = |table: &mut TableShape, change: fn(&mut TypeShape)| change(table.types.get_mut(&20_000).unwrap());
    rows_change("a type", |table| kind(table, |kind| *kind.labels.get_mut(&1).unwrap() = "blue".into()));
    rows_change("a type", |table| kind(table, |kind| kind.attributes = vec![(1, "a".into(), 25, -1)]));
    rows_change("a type", |table| kind(table, |kind| kind.inner = 23));
    rows_change("a type", |table| kind(table, |kind| kind.json_cast = Some("9:1".into())));
    rows_change("rewritten", |table| {
        table.columns[0].version = 701;
        table.leaves[0].filenode = 11;
    });
}

#[test]
fn a_change_that_leaves_rows_alone_is_harmless() {
    // VACUUM FULL, GRANT on a column, ADD VALUE, and anything about a column that stays in the source.
    is_harmless(|table| table.leaves[0].filenode = 11);
    is_harmless(|table| table.columns[0].version = 701);
    is_harmless(|table| {
        table.types.get_mut(&20_000).unwrap().labels.insert(3, "calm".into());
    });
    is_harmless(|table| {
        table.columns[2].number = 4;
        table.columns[2].version = 701;
        table.leaves[0].filenode = 11;
    });
    is_harmless(|table| {
        table.columns[1].type_oid = 25;
        table.types.clear();
    });
}

#[test]
fn partitions_that_are_gone_truncated_or_new_are_found() {
    let known = shape(table(vec![leaf(2, 20), leaf(3, 30)]));
    let change = |leaves: Vec<LeafShape>| compare(&known, &shape(table(leaves)), &is_read);
    let why = |change| match change {
        ShapeChange::Rows(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(why(change(vec![leaf(2, 20)])).contains("auth.users_3 was detached or dropped"));
    assert!(why(change(vec![leaf(2, 20), leaf(3, 31)])).contains("auth.users_3 was truncated or rewritten"));
    let added = change(vec![leaf(2, 20), leaf(3, 30), leaf(4, 40)]);
    assert_eq!(added, ShapeChange::NewLeaves(vec![leaf(4, 40)]));
    let again = LeafShape { attached_by: vec![701], ..leaf(3, 30) };
    assert!(why(change(vec![leaf(2, 20), again.clone()])).contains("auth.users_3 was detached and attached again"));
    // A version that did not record it.
    let known = shape(table(vec![leaf(2, 20), LeafShape { attached_by: Vec::new(), ..leaf(3, 30) }]));
    assert_eq!(compare(&known, &shape(table(vec![leaf(2, 20), again])), &is_read), ShapeChange::Harmless);
}

#[test]
fn partitions_that_were_attached_or_detached_need_a_new_slot_before_version_15() {
    let known = shape(table(vec![leaf(2, 20), leaf(3, 30)]));
    let is_outdated = |version, leaves: Vec<LeafShape>| {
        outdates_slot(&known, &SourceShape { server_version: version, ..shape(table(leaves)) })
    };
    let created = LeafShape { is_created_attached: true, ..leaf(4, 40) };
    let again = LeafShape { attached_by: vec![701], ..leaf(3, 30) };
    for leaves in [vec![leaf(2, 20)], vec![leaf(2, 20), leaf(3, 30), leaf(4, 40)], vec![leaf(2, 20), again]] {
        assert!(is_outdated(149_999, leaves.clone()), "{leaves:?}");
        assert!(!is_outdated(150_000, leaves));
    }
    assert!(!is_outdated(149_999, vec![leaf(2, 21), leaf(3, 30), created]));
}

#[test]
fn a_source_whose_changes_would_be_missed_is_refused() {
    let faults_of = |change: fn(&mut SourceShape)| {
        let mut shape = shape(table(vec![leaf(2, 20)]));
        change(&mut shape);
        faults(&shape, "users_sync", &is_read).into_iter().map(|fault| fault.what).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(faults_of(|_| ()), "");
    type Change = fn(&mut SourceShape);
    let cases: [(Change, &str); 8] = [
        (
            |shape| {
                shape.server_version = 180_000;
                shape.tables[0].columns[2].is_generated = true;
                shape.tables[0].leaves[0].identity = "f".into();
            },
            "the replica identity of auth.users_2 has a generated column",
        ),
        (|shape| shape.tables[0].children.push("auth.old".into()), "inheritance children (auth.old)"),
        (|shape| shape.tables[0].leaves[0].kind = "f".into(), "auth.users_2 is a foreign table"),
        (|shape| shape.tables[0].leaves[0].persistence = "u".into(), "auth.users_2 is an unlogged table"),
        (|shape| shape.publication.as_mut().unwrap().via_root = false, "is partitioned, and"),
        (|shape| shape.publication.as_mut().unwrap().deletes = false, "does not publish delete"),
        (
            |shape| shape.tables[0].published.as_mut().unwrap().has_row_filter = true,
            "publishes only some rows of auth.users",
        ),
        (
            |shape| shape.tables[0].published.as_mut().unwrap().columns = Some(vec![1, 3]),
            "omits columns of auth.users: mood",
        ),
    ];
    for (change, expected) in cases {
        let said = faults_of(change);
        assert!(said.contains(expected), "{said}: {expected}");
    }
}

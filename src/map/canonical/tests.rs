//! The text and its digest, literally: an upgrade that changes one of them resyncs every tenant.

use super::*;
use crate::map::Redactions;

fn column(name: &str) -> Value {
    Value::Column(name.to_owned())
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn table(name: &str) -> TableName {
    TableName { schema: "auth".to_owned(), name: name.to_owned() }
}

fn rules() -> Rules {
    Rules {
        table: table("users"),
        id: column("id"),
        name: None,
        email: None,
        created_at: None,
        updated_at: None,
        deleted_at: None,
        tenant: None,
        filter: None,
        allow: None,
        exclude: Vec::new(),
        query: None,
        redactions: Redactions::default(),
    }
}

/// The part's text, and the fingerprint of rules that differ in this part only.
#[track_caller]
fn check(part: &impl Canonical, rules: &Rules, expected: &str, digest: &str) {
    let mut out = String::new();
    part.write(&mut out);
    assert_eq!(out, expected);
    assert_eq!(fingerprint(rules, 16_384, []), digest, "{expected}");
}

#[test]
fn values_have_their_texts() {
    let optional = |value| Value::Optional(Box::new(value));
    for (name, expected, digest) in [
        (column("name"), r#"Column("name")"#, "994752b0354dffaf7de788d4430c2514"),
        (Value::First(vec![]), r#"First([])"#, "004c7eeac67836bb26fdc0f3c0a61579"),
        (
            Value::First(vec![column("a.b"), column("c")]),
            r#"First([Column("a.b"), Column("c")])"#,
            "4834df3a5912e2ebd2253755650905b9",
        ),
        (
            Value::Join { parts: vec![column("first"), column("last")], with: " ".to_owned() },
            r#"Join { parts: [Column("first"), Column("last")], with: " " }"#,
            "0310eae71042595fc9541c7d8fd02f56",
        ),
        (
            Value::Time { column: "at".to_owned(), unit: TimeUnit::Seconds },
            r#"Time { column: "at", unit: Seconds }"#,
            "2e9f13021616da6bbbe19151506b392e",
        ),
        (
            Value::Time { column: "at".to_owned(), unit: TimeUnit::Millis },
            r#"Time { column: "at", unit: Millis }"#,
            "14ea52cc115be7cbb03c1d6f47e2331e",
        ),
        (
            Value::Time { column: "at".to_owned(), unit: TimeUnit::Rfc3339 },
            r#"Time { column: "at", unit: Rfc3339 }"#,
            "d21f279770d196bea91cf0751b907771",
        ),
        (optional(column("nick")), r#"Optional(Column("nick"))"#, "65112d6fefa62c54dbde55903eeccc74"),
        (
            optional(Value::Unless { value: Box::new(column("email")), set: "deleted".to_owned() }),
            r#"Optional(Unless { value: Column("email"), set: "deleted" })"#,
            "c1b1ea8bf85e5ed78946c1b896649e5f",
        ),
        (Value::Constant("acme".to_owned()), r#"Constant("acme")"#, "acf488c7599a443676fce5bc9aa40020"),
        (Value::Schema, r#"Schema"#, "40f1798d010dadc79cf775d8dab3c76c"),
    ] {
        check(&name, &Rules { name: Some(name.clone()), ..rules() }, expected, digest);
    }
}

#[test]
fn conditions_have_their_texts() {
    let is_in = |values: &[&str]| Filter::In("kind".to_owned(), texts(values));
    let is_null = || Filter::IsNull("gone".to_owned());
    for (filter, expected, digest) in [
        (is_in(&[]), r#"In("kind", [])"#, "1d343e95e9078a3b745bfdab1f994448"),
        (is_in(&["a", "b"]), r#"In("kind", ["a", "b"])"#, "66fef835d0d3f8bd6f636e62e9a333cc"),
        (is_null(), r#"IsNull("gone")"#, "c6c6322531e2c21d1b45365456bb0e33"),
        (
            Filter::And(vec![is_in(&["a"]), is_null()]),
            r#"And([In("kind", ["a"]), IsNull("gone")])"#,
            "b23718f0d42aad31640d5b6c277f881b",
        ),
        (Filter::Or(vec![]), r#"Or([])"#, "2333cd0b192c82044484fff75df106a2"),
        (Filter::Not(Box::new(is_null())), r#"Not(IsNull("gone"))"#, "5585c4649f33af1f8492c9c102553db1"),
    ] {
        check(&filter, &Rules { filter: Some(filter.clone()), ..rules() }, expected, digest);
    }
}

#[test]
fn queries_have_their_texts() {
    let via = Via { table: table("links"), from: texts(&["user_id"]), to: texts(&["org", "id"]) };
    let watch = |via: Option<Via>| Watch {
        table: table("emails"),
        key: texts(&["user_id"]),
        tenant: Some(column("org")),
        is_users_own: via.is_none(),
        via,
    };
    for (watch, expected, digest) in [
        (vec![], r#"Query { sql: "SELECT 1", key: ["org", "id"], watch: [] }"#, "55fa6e8c7136d69ea4261a4bd755e405"),
        (
            vec![watch(None)],
            r#"Query { sql: "SELECT 1", key: ["org", "id"], watch: [Watch { table: auth.emails, key: ["user_id"], tenant: Some(Column("org")), is_users_own: true, via: None }] }"#,
            "8e61aa7fccc9a403f7584bca90192b44",
        ),
        (
            vec![watch(Some(via.clone())), watch(None)],
            r#"Query { sql: "SELECT 1", key: ["org", "id"], watch: [Watch { table: auth.emails, key: ["user_id"], tenant: Some(Column("org")), is_users_own: false, via: Some(Via { table: auth.links, from: ["user_id"], to: ["org", "id"] }) }, Watch { table: auth.emails, key: ["user_id"], tenant: Some(Column("org")), is_users_own: true, via: None }] }"#,
            "7d2f4ad4e40f2a5647a0f1910417450e",
        ),
    ] {
        let query = Query { sql: "SELECT 1".to_owned(), key: texts(&["org", "id"]), watch, distinct: Vec::new() };
        check(&query, &Rules { query: Some(query.clone()), ..rules() }, expected, digest);
    }
}

#[test]
fn strings_are_escaped_as_in_the_first_release() {
    for (string, expected, digest) in [
        ("", r#""""#, "0889e0adc6821a034ac150b45ebe1b7e"),
        ("it's \"quoted\" \\ {}", r#""it's \"quoted\" \\ {}""#, "303f552b179af0a6cea924ca135906a9"),
        ("\0\t\n\r\u{1}\u{1b}\u{7f}", r#""\0\t\n\r\u{1}\u{1b}\u{7f}""#, "d45d1cf21fdb5e3c25fb3da2bb64cbc0"),
        ("\u{80}\u{a0}\u{ad}", r#""\u{80}\u{a0}\u{ad}""#, "182dd7f3bb091673049ad2b2ec3cd54e"),
        ("Zürich, 東京, Москва, €, 🦀", r#""Zürich, 東京, Москва, €, 🦀""#, "ee3ef26340d7f3c7b264ee92b34306fb"),
        // Decomposed, right to left with points, Thai, Devanagari, a flag with its variation selector.
        ("u\u{308}", r#""u\u{308}""#, "d9ff4d6c021b30e710c5ca99032ba0b2"),
        ("שָׁלוֹם", r#""ש\u{5b8}\u{5c1}לו\u{5b9}ם""#, "bc0d48f360fcaa0b81d96f573fcd9342"),
        ("กำลัง", r#""กำล\u{e31}ง""#, "b24ccc92aaaf4f31201d3cfb9b69d3aa"),
        ("नमस्ते", r#""नमस\u{94d}त\u{947}""#, "d5034e276bce3751510c0e5f9b823bd3"),
        ("🏳\u{fe0f}\u{200d}🌈", r#""🏳\u{fe0f}\u{200d}🌈""#, "d356abee641796263d090d4d043a1f39"),
        (
            "\u{2028}\u{3000}\u{e000}\u{feff}\u{fffd}\u{e0041}\u{10fffd}",
            r#""\u{2028}\u{3000}\u{e000}\u{feff}�\u{e0041}\u{10fffd}""#,
            "5c18191ea8e5211a7266a4d19b4f347b",
        ),
    ] {
        check(&string.to_owned(), &Rules { exclude: texts(&[string]), ..rules() }, expected, digest);
    }
}

#[test]
fn rules_stand_before_the_table_and_what_leaves() {
    let everything = Rules {
        name: Some(column("n")),
        email: Some(column("e")),
        created_at: Some(column("c")),
        updated_at: Some(column("u")),
        deleted_at: Some(column("d")),
        tenant: Some(column("t")),
        filter: Some(Filter::IsNull("d".to_owned())),
        allow: Some(texts(&["a", "b?"])),
        exclude: texts(&["a.x"]),
        query: Some(Query { sql: "SELECT 1".to_owned(), key: texts(&["id"]), watch: Vec::new(), distinct: Vec::new() }),
        ..rules()
    };
    let exposed = [("id", Some(2950)), ("say \"é\"", Some(25)), ("gone", None)];
    let expected = [
        r#"Rules { table: auth.users, id: Column("id"), name: Some(Column("n")), email: Some(Column("e")), "#,
        r#"created_at: Some(Column("c")), updated_at: Some(Column("u")), deleted_at: Some(Column("d")), "#,
        r#"tenant: Some(Column("t")), filter: Some(IsNull("d")), allow: Some(["a", "b?"]), exclude: ["a.x"], "#,
        r#"query: Some(Query { sql: "SELECT 1", key: ["id"], watch: [] }) } 16384"#,
        "\n\"id\" Some(2950)",
        "\n\"say \\\"é\\\"\" Some(25)",
        "\n\"gone\" None",
    ];
    assert_eq!(text(&everything, 16_384, exposed), expected.concat());
    assert_eq!(fingerprint(&everything, 16_384, exposed), "3e638906643be277868c11e573f3629f");
    assert_eq!(
        text(&rules(), 1, []),
        "Rules { table: auth.users, id: Column(\"id\"), name: None, email: None, created_at: None, updated_at: None, \
         deleted_at: None, tenant: None, filter: None, allow: None, exclude: [], query: None } 1"
    );
    assert_eq!(fingerprint(&rules(), 1, []), "503a7f27c591c9ff215abeebb40e5c3e");
}

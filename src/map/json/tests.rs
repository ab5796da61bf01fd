//! Table tests of the JSON forms; `tests/postgres/to_jsonb.rs` compares them with a server.

use super::*;
use proptest::prelude::*;

/// A catalog with arrays, a composite, a domain, and a cycle that no server has.
fn types() -> TypeCatalog {
    let array = |element, delimiter| TypeKind::Array { element, delimiter };
    let field = |name: &str, type_oid| CompositeField { name: name.to_owned(), type_oid };
    TypeCatalog::from([
        (1007, array(oid::INT4, b',')),
        (1009, array(oid::TEXT, b',')),
        (1020, array(603, b';')),
        (1185, array(oid::TIMESTAMPTZ, b',')),
        (199, array(oid::JSON, b',')),
        (9000, TypeKind::Composite(vec![field("n", oid::INT4), field("a \"b\"", oid::TEXT), field("when", 1185)])),
        (9001, array(9000, b',')),
        (9002, TypeKind::Domain(9001)),
        (9003, TypeKind::Domain(oid::INT4)),
        (9004, TypeKind::Composite(vec![])),
        (9005, TypeKind::Composite(vec![field("inner", 9000), field("all", 9002)])),
        (9006, TypeKind::Composite(vec![field("itself", 9006), field("ring", 9007)])),
        (9007, TypeKind::Domain(9008)),
        (9008, TypeKind::Domain(9007)),
        (9009, TypeKind::Hstore),
        (9010, TypeKind::Cast),
        (9011, TypeKind::Composite(vec![field("n", oid::INT4), field("cast", 9010)])),
        (9012, array(9011, b',')),
        (9013, TypeKind::Domain(9012)),
    ])
}

fn json(oid: Oid, text: &str) -> Result<String, Malformed> {
    let mut out = String::new();
    JsonKind::compile(oid, &types()).append(text, &mut out, &mut 0)?;
    Ok(out)
}

#[test]
fn each_type_has_the_form_that_to_jsonb_gives_it() {
    for (oid, text, expected) in [
        (oid::BOOL, "t", "true"),
        (oid::BOOL, "f", "false"),
        (oid::INT4, "-12", "-12"),
        (oid::FLOAT8, "1e+20", "1e+20"),
        (oid::FLOAT8, "-Infinity", "\"-Infinity\""),
        (oid::NUMERIC, "0.10", "0.10"),
        (oid::NUMERIC, "NaN", "\"NaN\""),
        (9003, "7", "7"),
        (oid::TEXT, "a\"b\\c\n\u{1}\u{7f}ü", "\"a\\\"b\\\\c\\n\\u0001\u{7f}ü\""),
        (oid::BPCHAR, "ab   ", "\"ab   \""),
        (oid::DATE, "0044-03-15 BC", "\"0044-03-15 BC\""),
        (oid::TIMESTAMP, "2024-01-01 00:00:00.5", "\"2024-01-01T00:00:00.5\""),
        (oid::TIMESTAMP, "0044-03-15 00:00:00 BC", "\"0044-03-15T00:00:00 BC\""),
        (oid::TIMESTAMPTZ, "2024-01-01 00:00:00+00", "\"2024-01-01T00:00:00+00:00\""),
        (oid::TIMESTAMPTZ, "12024-01-01 00:00:00+05:30", "\"12024-01-01T00:00:00+05:30\""),
        (oid::TIMESTAMPTZ, "0044-03-15 00:00:00+00 BC", "\"0044-03-15T00:00:00+00:00 BC\""),
        (oid::TIMESTAMPTZ, "infinity", "\"infinity\""),
        (oid::JSON, "{ \"a\" : 1 }", "{ \"a\" : 1 }"),
        (oid::INT2VECTOR, "1 2", "[1,2]"),
        (oid::OIDVECTOR, "1 2", "[\"1\",\"2\"]"),
        (oid::OIDVECTOR, "", "[]"),
        (2950, "a0ee-", "\"a0ee-\""),
        (9009, "", "{}"),
        (9009, r#""a"=>"1", "b \"\\ü"=>NULL, ""=>"NULL, \"=>\"""#, r#"{"a":"1","b \"\\ü":null,"":"NULL, \"=>\""}"#),
    ] {
        assert_eq!(json(oid, text).as_deref(), Ok(expected), "{oid} {text}");
    }
}

#[test]
fn arrays_keep_their_dimensions_and_lose_their_bounds() {
    for (oid, text, expected) in [
        (1007, "{}", "[]"),
        (1007, "{1,NULL,-3}", "[1,null,-3]"),
        (1007, "[2:3]={1,2}", "[1,2]"),
        (1007, "[0:0][3:4]={{1,2}}", "[[1,2]]"),
        (1009, "{NULL,\"NULL\",null,\"\",a}", "[null,\"NULL\",\"null\",\"\",\"a\"]"),
        (1009, r#"{"a b","q\"\\","{x}",ü}"#, r#"["a b","q\"\\","{x}","ü"]"#),
        (1009, "{{{{{{a}}}}}}", "[[[[[[\"a\"]]]]]]"),
        (1020, "{(1,1),(0,0);(2,2),(1,1)}", "[\"(1,1),(0,0)\",\"(2,2),(1,1)\"]"),
        (1185, "{\"2024-01-01 00:00:00+00\",infinity}", "[\"2024-01-01T00:00:00+00:00\",\"infinity\"]"),
        (199, r#"{"{\"a\":\"\\u0000b\"}",1,NULL}"#, r#"[{"a":"b"},1,null]"#),
    ] {
        assert_eq!(json(oid, text).as_deref(), Ok(expected), "{oid} {text}");
    }
}

#[test]
fn composites_become_objects() {
    for (oid, text, expected) in [
        (9000, "(,,)", r#"{"n":null,"a \"b\"":null,"when":null}"#),
        (9000, r#"(1,"",{})"#, r#"{"n":1,"a \"b\"":"","when":[]}"#),
        (9000, r#"(1,"b ""c"" \\ (,)",)"#, r#"{"n":1,"a \"b\"":"b \"c\" \\ (,)","when":null}"#),
        (9004, "()", "{}"),
        (9001, r#"{"(1,\"x y\",)",NULL}"#, r#"[{"n":1,"a \"b\"":"x y","when":null},null]"#),
        (
            9005,
            r#"("(1,""x """"y"""""",)","{""(2,,)""}")"#,
            r#"{"inner":{"n":1,"a \"b\"":"x \"y\"","when":null},"all":[{"n":2,"a \"b\"":null,"when":null}]}"#,
        ),
    ] {
        assert_eq!(json(oid, text).as_deref(), Ok(expected), "{oid} {text}");
    }
}

/// A composite of a composite, and so on, this deep; each of `width` fields.
fn nested(depth: u32, width: usize) -> TypeCatalog {
    let fields = |below| (0..width).map(|i| CompositeField { name: format!("f{i}"), type_oid: below }).collect();
    (0..depth).map(|level| (50_000 + level, TypeKind::Composite(fields(50_001 + level)))).collect()
}

#[test]
fn a_type_nested_too_deeply_or_too_widely_sets_its_rows_aside() {
    let compiled = |types: &TypeCatalog, text: &str| {
        JsonKind::compile(50_000, types).append(text, &mut String::new(), &mut 0).map_err(|Malformed(why)| why)
    };
    assert_eq!(compiled(&nested(4, 1), "(1)"), Err("composite value"));
    assert_eq!(compiled(&nested(4, 2), "(,)"), Ok(()));
    // Quotes double at each level of text, so that only a server's own types, never a value, are this deep.
    for (depth, width) in [(100_000, 1), (40, 2), (3, 100)] {
        let types = nested(depth, width);
        let kind = JsonKind::compile(50_000, &types);
        let mut found = &kind;
        let mut levels = 0;
        while let JsonKind::Composite(fields) = found {
            found = &fields.last().unwrap().kind;
            levels += 1;
        }
        assert!(levels <= MAX_TYPE_DEPTH);
        assert_eq!(found, &JsonKind::TooComplex, "{depth} {width}");
        let why = found.append("1", &mut String::new(), &mut 0).unwrap_err().0;
        assert!(why.contains("128 levels") && why.contains("users.exclude"), "{why}");
    }
}

#[test]
fn deeply_nested_text_of_arrays_and_composites_is_malformed_and_takes_no_stack() {
    const DEEP: usize = 100_000;
    for (open, close) in [("{", "}"), ("(", ")"), ("(\"{", "}\")"), ("{\"(", ")\"}"), ("\"", "\""), ("[", "]")] {
        let text = open.repeat(DEEP) + "1" + &close.repeat(DEEP);
        for oid in [1007, 1009, 1020, 9000, 9001, 9005] {
            assert!(json(oid, &text).is_err(), "{open} {oid}");
        }
    }
    let text = "[".repeat(DEEP) + &"]".repeat(DEEP);
    for oid in [oid::JSON, oid::JSONB] {
        assert_eq!(json(oid, &text).as_deref(), Ok(&*text));
    }
}

#[test]
fn malformed_text_is_an_error() {
    for (oid, texts) in [
        (oid::BOOL, &["", "true", "x"][..]),
        (oid::INT4, &["", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x1", "1,2", "1}"]),
        (oid::JSON, &[""]),
        (oid::JSONB, &[""]),
        (
            1007,
            &["", "{", "}", "{1", "{1,", "{,}", "{1,}", "{1}x", "[1:2]", "{1{", "{1 2}", "{{1}", "1", "{\"1", "{\"1\\"],
        ),
        (1007, &["{{{{{{{1}}}}}}}", "{{}1}", "{1\"2\"}"]),
        (9000, &["", "(", "()", "(1,2)", "(1,2,3,4)", "(1,\"a,)", "(1,a,)x", "1,a,", "(x,,)", "(1,\\"]),
        (9004, &["", "(", "(1)"]),
    ] {
        for text in texts {
            assert!(json(oid, text).is_err(), "{oid} {text}");
        }
    }
}

#[test]
fn text_that_jsonb_refuses_is_stripped_and_counted() {
    for (text, expected, count) in [
        (r#""a\u0000b""#, r#""ab""#, 1),
        (r#""\\u0000""#, r#""\\u0000""#, 0),
        (r#""\\\u0000\u0000""#, r#""\\""#, 2),
        (r#""\u00e9\n""#, r#""\u00e9\n""#, 0),
        (r#"{"\u0000k":"\ud83d\ude00"}"#, r#"{"k":"\ud83d\ude00"}"#, 1),
        (r#""\ud83d""#, r#""""#, 1),
        (r#""\ude00\uD83Dx""#, r#""x""#, 2),
        (r#""\ud83d\ud83d\ude00""#, r#""\ud83d\ude00""#, 1),
        (r#""\ud83d\\ude00""#, r#""\\ude00""#, 1),
        ("\\u00", "\\u00", 0),
        ("\\", "\\", 0),
    ] {
        let mut stripped = 0;
        assert_eq!(clean(text, &mut stripped), expected, "{text}");
        assert_eq!(stripped, count, "{text}");
    }
}

#[test]
fn paths_find_scalars() {
    let document = r#" { "a": {"b\u0041": "x\ty", "n": 1.50, "t": true, "z": null, "o": {}}, "a.b": 3, "a ": 1, "d": 1, "d": "2" } "#;
    let find_text = |path: &str| {
        let path: Vec<String> = path.split('/').filter(|key| !key.is_empty()).map(str::to_owned).collect();
        let found = find(document, &path).unwrap();
        found.and_then(|value| scalar_text(value).unwrap()).map(Cow::into_owned)
    };
    use std::borrow::Cow;
    for (path, expected) in [
        ("a/bA", Some("x\ty")),
        ("a/n", Some("1.50")),
        ("a/t", Some("true")),
        ("a/z", None),
        ("a/o", None),
        ("a", None),
        ("a.b", Some("3")),
        ("d", Some("2")),
        ("d/e", None),
        ("nothing", None),
        ("", None),
    ] {
        assert_eq!(find_text(path).as_deref(), expected, "{path}");
    }
    assert!(find("{", &["a".to_owned()]).is_err());
    assert_eq!(find("[1]", &["a".to_owned()]).unwrap(), None);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*", near in r#"[\[{(]?[\\"{}(),;:= ua0-9\[\]NULüé+-]{0,40}[)}]?"#) {
        let types = types();
        for oid in [16, 20, 22, 25, 30, 114, 1114, 1184, 3802, 1007, 1009, 1020, 199, 9000, 9001, 9002, 9005, 9006, 9007] {
            let kind = JsonKind::compile(oid, &types);
            for text in [&text, &near] {
                let _ = kind.append(text, &mut String::new(), &mut 0);
            }
        }
        for text in [&text, &near] {
            let _ = find(text, &["a".to_owned(), "b".to_owned()]);
            let _ = scalar_text(text);
        }
    }

    #[test]
    fn every_type_that_is_not_json_becomes_valid_json(text in r#"[\[{(]?[\\"{}(),;:= ua0-9\[\]NULü+-]{0,30}[)}]?"#) {
        for oid in [16, 20, 22, 25, 1114, 1184, 1007, 1009, 1185, 9000, 9001, 9005] {
            if let Ok(json) = json(oid, &text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
            }
        }
    }
}

#[test]
fn only_the_source_converts_a_type_with_a_cast() {
    let has_cast = |oid| JsonKind::compile(oid, &types()).has_cast();
    assert!([9010, 9011, 9012, 9013].into_iter().all(has_cast));
    assert!(![9000, 9001, 9002, 9009, oid::TEXT, oid::OIDVECTOR].into_iter().any(has_cast));
    assert_eq!(json(9010, "x"), Err(Malformed("value that the source has cast to json")));
}

#[test]
fn a_malformed_hstore_is_an_error() {
    for text in ["a", "\"a\"", "\"a\"=>", "\"a\"=>1", "\"a\"=>\"1", "\"a\"=>NULL,", "\"a\"=>NULL \"b\"=>NULL", "\"a\\"]
    {
        assert_eq!(json(9009, text), Err(Malformed("hstore value")), "{text}");
    }
}

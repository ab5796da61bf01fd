//! Which rows are users, which columns are exposed, and which users a watched row affects.

use super::*;

fn is(name: &str, values: &[&str]) -> Filter {
    Filter::In(name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
}

#[test]
fn only_rows_that_match_the_condition_are_users() {
    let ada = is("meta.name", &["Ada", "Bob"]);
    let null = Filter::IsNull("meta.nick".to_owned());
    let not = |filter: &Filter| Filter::Not(Box::new(filter.clone()));
    // A comparison with null is null, and so is its opposite.
    let unknown = is("meta.nick", &["x"]);
    for (filter, is_user) in [
        (ada.clone(), true),
        (not(&ada), false),
        (null.clone(), true),
        (unknown.clone(), false),
        (not(&unknown), false),
        (Filter::And(vec![ada.clone(), null.clone()]), true),
        (Filter::And(vec![ada.clone(), unknown.clone()]), false),
        (Filter::Or(vec![unknown.clone(), ada.clone()]), true),
        (not(&Filter::Or(vec![unknown.clone(), not(&ada)])), false),
        (not(&Filter::And(vec![unknown.clone(), not(&ada)])), true),
        (is("email", &[""]), false),
        (is("display_name", &["x"]), false),
    ] {
        let plan = plan_of(&Rules { filter: Some(filter.clone()), ..rules() });
        let mut row = ROW;
        row[7] = Cell::Null;
        assert_eq!(inserted(&plan, &row) != "no user", is_user, "{filter:?}");
    }
    let plan = plan_of(&Rules { filter: Some(is("email", &[""])), ..rules() });
    assert_ne!(inserted(&plan, &row(&[(2, Cell::Text(b""))])), "no user", "'' is a text");
}

#[test]
fn a_row_that_stops_matching_is_deleted() {
    let plan = plan_of(&Rules { filter: Some(is("email", &["a@b.c"])), name: None, ..rules() });
    let changed = row(&[(2, Cell::Text(b"x"))]);
    assert_eq!(updated(&plan, None, &changed), ["acme: delete 1 777"]);
    assert_eq!(updated(&plan, Some(&ROW), &changed), ["acme: delete 1 777"]);
    // It never matched.
    assert_eq!(updated(&plan, Some(&changed), &changed), [""; 0]);
    assert!(updated(&plan, Some(&changed), &ROW)[0].starts_with("acme: upsert 1 "));
    let deleted = |old: &[Cell<'_>]| {
        let mut shown = Vec::new();
        plan.delete(old, AT, &mut |tenant, change| shown.push(show(tenant, &change))).unwrap();
        shown
    };
    assert_eq!(deleted(&ROW), ["acme: delete 1 777"]);
    assert_eq!(deleted(&changed), [""; 0]);
    assert_eq!(deleted(&row(&[(2, Cell::Absent)])), ["acme: delete 1 777"], "it may have matched");
    // The tenant is unknown.
    let unknown = Rules { filter: Some(is("email", &["a@b.c"])), tenant: Some(column("meta.n")), ..rules() };
    let shown = updated(&plan_of(&unknown), None, &row(&[(2, Cell::Null), (6, Cell::Unchanged)]));
    assert!(shown[0].starts_with("error: the replica identity lacks"), "{shown:?}");
    // The value that decides was not sent.
    let plan = plan_of(&Rules { filter: Some(is("meta.n", &["5"])), name: None, ..rules() });
    assert_eq!(updated(&plan, None, &row(&[(6, Cell::Unchanged)])), ["acme: reread 1 42"]);
}

#[test]
fn only_allowed_columns_leave_and_excluded_paths_are_removed() {
    let allow = ["meta", "password_hash", "none?"].map(str::to_owned).to_vec();
    let exclude = ["meta.name", "meta.none", "gone?", "gone.x?"].map(str::to_owned).to_vec();
    let plan = plan_of(&Rules { allow: Some(allow), exclude, ..rules() });
    let shown = inserted(&plan, &row(&[(3, Cell::Text(b"hash"))]));
    let kept = r#"{"id":"1","meta":{"n":5},"display_name":"Ada","password_hash":"hash","primary_email":"a@b.c","signed_up_at_millis":946684800001}"#;
    assert!(shown.ends_with(kept), "{shown}");
    assert_eq!(plan.exposed_columns().collect::<Vec<_>>(), ["id", "password_hash", "meta"]);
    let account = plan.account(&relation(&["id"]));
    let of = |name: &str| account.iter().find(|account| account.column == name).unwrap().describe();
    assert_eq!(of("meta.nick"), "leaves as name, raw_json.display_name");
    assert_eq!(of("display_name"), "stays: raw_json has a mapped value under its name");
    assert_eq!(of("email"), "leaves as email, raw_json.primary_email");
    assert_eq!(of("tenant"), "leaves as tenant key");
    assert_eq!(of("password_hash"), "leaves as raw_json.password_hash");
    assert!(of("meta").ends_with("raw_json.meta, without name, none, which users.exclude lists"), "{}", of("meta"));
}

#[test]
fn constants_schemas_and_missing_columns_make_values() {
    let optional = |name: &str| Value::Optional(Box::new(column(name)));
    let unless = |set: &str| Value::Unless { value: Box::new(column("email")), set: set.to_owned() };
    for (name, expected) in [
        (Value::Constant("acme".into()), "acme"),
        (Value::Schema, "auth"),
        (optional("nope"), "-"),
        (optional("email.x"), "-"),
        (Value::First(vec![optional("nope"), column("email")]), "a@b.c"),
        (unless("meta.nick"), "a@b.c"),
        (unless("meta.name"), "-"),
        (Value::Optional(Box::new(unless("nope"))), "-"),
    ] {
        let plan = plan_of(&Rules { name: Some(name.clone()), ..rules() });
        let shown = inserted(&plan, &ROW);
        assert!(shown.starts_with(&format!("acme: upsert 1 {expected} a@b.c")), "{name:?}: {shown}");
    }
}

#[test]
fn a_watched_row_yields_the_affected_key_and_tenant() {
    let watch = |key: &[&str], tenant: Option<Value>| Watch {
        table: relation(&[]).table,
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        tenant,
        is_users_own: false,
        via: None,
    };
    let compile = |rules: &Rules, watch: &Watch, identity: &[&str]| {
        WatchPlan::compile(rules, watch, &relation(identity), &TypeCatalog::new())
    };
    let plan = compile(&rules(), &watch(&["tenant", "id"], Some(column("email"))), &["id", "tenant"]).unwrap();
    assert_eq!(plan.decoded(), [true, true, true, false, false, false, false, false, false]);
    assert_eq!(
        (plan.identity_gap(), plan.identity_remedy().contains("(\"tenant\", \"id\", \"email\")")),
        (&["email".to_owned()][..], true)
    );
    let affected = |plan: &WatchPlan, cells: &[Cell<'static>]| {
        let affected = plan.affected_key(cells).map_err(|error| error.to_string());
        affected.map(|affected| affected.map(|AffectedKey { key, tenant }| format!("{} {tenant:?}", key.join("/"))))
    };
    assert_eq!(affected(&plan, &ROW), Ok(Some("acme/1 Key(\"a@b.c\")".to_owned())));
    assert_eq!(affected(&plan, &row(&[(2, Cell::Text(b""))])), Ok(Some("acme/1 NoTenant".to_owned())));
    assert_eq!(affected(&plan, &row(&[(0, Cell::Null)])), Ok(None), "no user has a null key");
    assert!(affected(&plan, &row(&[(0, Cell::Absent)])).unwrap_err().starts_with("the replica identity lacks email"));
    assert!(affected(&plan, &ROW[..3]).unwrap_err().contains("3 columns"));
    let plan = compile(&rules(), &watch(&["id"], None), &["id"]).unwrap();
    assert_eq!(affected(&plan, &ROW), Ok(Some("1 Unsent".to_owned())));
    assert!(plan.identity_gap().is_empty());
    let plan = compile(&Rules { tenant: None, ..rules() }, &watch(&["id"], None), &["id"]).unwrap();
    assert_eq!(affected(&plan, &ROW), Ok(Some("1 Only".to_owned())));
    let error = compile(&rules(), &watch(&["idd"], None), &[]).unwrap_err().to_string();
    assert!(error.contains("users.watch: there is no column \"idd\"; did you mean \"id\"?"), "{error}");
}

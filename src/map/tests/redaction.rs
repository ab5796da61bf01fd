//! What a tenant with a redaction receives of a row.

use super::*;

#[test]
fn a_tenant_receives_what_its_redaction_leaves() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let masked = Redaction {
        path: "tenants[acme]".to_owned(),
        email_hash: None,
        masked: names(&["name", "email", "updated", "meta.nick"]),
        only: Some(names(&["updated", "meta.nick", "created", "id"])),
    };
    let redactions = |redaction: Redaction| Redactions {
        default: None,
        by_key: [("acme".to_owned(), std::sync::Arc::new(redaction))].into(),
    };
    let plan = plan_of(&Rules { redactions: redactions(masked.clone()), ..rules() });
    let json = r#"{"id":"1","created":"2000-01-01T00:00:00.001+00:00","updated":"***","meta.nick":null,"display_name":"A***","primary_email":"a***@b.c","signed_up_at_millis":946684800001}"#;
    assert_eq!(inserted(&plan, &ROW), format!("acme: upsert 1 A*** a***@b.c 1000 -* {json}"));
    let other = row(&[(1, Cell::Text(b"globex"))]);
    assert!(inserted(&plan, &other).starts_with("globex: upsert 1 Ada a@b.c"), "{}", inserted(&plan, &other));
    // A value that was not sent stays as the target has it.
    let partial = row(&[(4, Cell::Unchanged)]);
    let json = r#"{"id":"1","updated":"***","meta.nick":null,"display_name":"A***","primary_email":"a***@b.c"}"#;
    assert_eq!(updated(&plan, None, &partial), [format!("acme: patch 1 A*** a***@b.c keep 777* {json}")]);

    let misspelt =
        Redaction { masked: names(&["emial", "gone?", "meta.phone?"]), only: Some(names(&["pln"])), ..masked };
    let rules = Rules { redactions: redactions(misspelt), ..rules() };
    let error = RowPlan::compile(&rules, &relation(&["id", "tenant"]), &TypeCatalog::new()).unwrap_err().to_string();
    for problem in [
        "\n  tenants[acme].mask: there is no column \"emial\"; did you mean \"email\"?",
        "\n  tenants[acme].only: there is no column \"pln\"; name a column of the table",
        "\n  tenants[acme].mask: \"meta.phone\" is a path; name the whole column",
    ] {
        assert!(error.contains(problem), "{error}");
    }
    assert!(!error.contains("gone"), "{error}");
}

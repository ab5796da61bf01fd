//! Tenants are paused and resumed, rejected users listed and tried again, and single users brought, over HTTP and by command.

use super::bed::AdminBed;
use super::http::{ask, post};
use crate::support::Bed;
use crate::support::process::{command, said};
use serde_json::{Value, json};

const CHECK: &str = "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_eve CHECK (raw_json ->> 'first_name' <> 'Eve')";

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_paused_rejected_users_listed_and_tried_again_and_single_users_brought() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, created_at, updated_at)
         SELECT 'u' || n, 'acme', 'Ann', date_trunc('second', now()), now() FROM generate_series(1, 20) n",
    )
    .await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let run = async |arguments: &[&str]| said(&command(&[&["-c", path], arguments].concat()).await);

    // Paused and resumed over HTTP.
    for (body, status) in
        [("{}", 422), (r#"{"reason": " "}"#, 400), (r#"{"reason": "x", "more": 1}"#, 422), ("[]", 422)]
    {
        assert_eq!(post(shown.at, "/api/tenants/acme/pause", body).await.status, status, "{body}");
    }
    assert_eq!(post(shown.at, "/api/tenants/acne/pause", r#"{"reason": "x"}"#).await.status, 404);
    let foreign = [("sec-fetch-site", "cross-site"), ("content-type", "application/json")];
    assert_eq!(ask(shown.at, "POST", "/api/tenants/acme/pause", &foreign, r#"{"reason": "x"}"#).await.status, 403);
    let paused = post(shown.at, "/api/tenants/acme/pause", r#"{"reason": "move"}"#).await;
    let expected = json!({"tenant": "acme", "state": "paused", "is_changed": true, "is_stopped": true});
    assert_eq!((paused.status, paused.json()), (200, expected));
    let again = post(shown.at, "/api/tenants/acme/pause", r#"{"reason": "other"}"#).await.json();
    assert_eq!((&again["is_changed"], &again["state"]), (&json!(false), &json!("paused")));
    let acme = shown.becomes("/api/tenants/acme", |answer| answer.json()["state"] == "paused").await.json();
    assert_eq!((&acme["paused"]["reason"], &acme["paused"]["by"]), (&json!("move"), &json!("the HTTP API")));
    let list = shown.json("/api/tenants?state=paused").await;
    assert_eq!((&list["total"], &list["tenants"][0]["tenant"]), (&json!(1), &json!("acme")));
    let status = shown.json("/api/status").await;
    assert_eq!(
        (&status["tenants"]["paused"], &status["verdict"]["reasons"][0]["code"]),
        (&json!(1), &json!("tenant_paused"))
    );
    let refused = post(shown.at, "/api/tenants/acme/rejected/retry", "{}").await;
    assert_eq!((refused.status, &refused.json()["remedy"]), (409, &json!("users-sync resume acme")));
    // An empty body stands for an object without properties.
    assert_eq!(ask(shown.at, "POST", "/api/tenants/acme/pause", &[], "").await.json()["code"], "invalid_body");
    let resumed = ask(shown.at, "POST", "/api/tenants/acme/resume", &[], "").await.json();
    assert_eq!((&resumed["is_changed"], &resumed["state"]), (&json!(true), &json!("following")), "{resumed}");

    // Rejected users, in pages and as a table.
    let (text, code) = run(&["rejected"]).await;
    assert!(code == Some(0) && text.contains("acme: rejects no user"), "{text}");
    bed.server.sql("acme", CHECK).await.unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Eve', updated_at = now() WHERE id IN ('u3', 'u4', 'u5')").await;
    bed.becomes("auth", "SELECT rejected FROM users_sync.tenant WHERE tenant = 'acme'", "3").await;
    let mut ids: Vec<Value> = Vec::new();
    let mut at = "/api/tenants/acme/rejected?limit=2".to_owned();
    loop {
        let page = shown.json(&at).await;
        assert_eq!(page["total"], 3);
        let users = page["users"].as_array().unwrap();
        let why = json!("constraint no_eve refuses it");
        assert!(users.iter().all(|user| user["reason"] == why && user["sqlstate"] == "23514"), "{page}");
        ids.extend(users.iter().map(|user| user["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        at = format!("/api/tenants/acme/rejected?limit=2&cursor={next}");
    }
    ids.sort_by_key(Value::to_string);
    assert_eq!(ids, ["u3", "u4", "u5"]);
    for query in ["limit=0", "limit=201", "cursor=x", "more=1"] {
        assert_eq!(shown.get(&format!("/api/tenants/acme/rejected?{query}")).await.status, 400, "{query}");
    }
    let (text, code) = run(&["rejected", "acme", "--retry"]).await;
    assert!(code == Some(1) && text.contains("acme    u3  23514     constraint no_eve refuses it"), "{text}");
    assert!(text.contains("acme: rejects 3 of its users"), "{text}");
    let (text, code) = run(&["resync", "acme", "--user", "u4"]).await;
    assert!(code == Some(1) && text.contains("rejects user u4: constraint no_eve refuses it"), "{text}");
    let (text, code) = run(&["rejected", "acne"]).await;
    assert!(code == Some(1) && text.contains("did you mean acme?"), "{text}");

    // The constraint is gone: they are tried at once, by command and over HTTP.
    bed.server.sql("acme", "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT no_eve").await.unwrap();
    let (text, code) = run(&["rejected", "acme", "--retry", "--json"]).await;
    assert_eq!(code, Some(0), "{text}");
    let document: Value = serde_json::from_str(&text[..=text.rfind('}').unwrap()]).unwrap();
    assert_eq!(document["tenants"][0], json!({"tenant": "acme", "total": 0, "users": [], "error": null}));
    bed.equal().await;
    let done = post(shown.at, "/api/tenants/acme/rejected/retry", "{}").await;
    assert_eq!((done.status, done.json()), (200, json!({"is_done": true})));

    // Single users: one that was changed by hand, one that only the target has, and ids that neither has.
    let damage = "UPDATE neon_auth.users_sync SET raw_json = raw_json || '{\"x\": 1}' WHERE id = 'u7';
        DELETE FROM neon_auth.users_sync WHERE id = 'u8';
        INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('ghost', '{\"id\": \"ghost\"}')";
    bed.server.sql("acme", damage).await.unwrap();
    for user in ["u7", "u8"] {
        let (text, code) = run(&["resync", "acme", "--user", user]).await;
        assert!(code == Some(0) && text.contains("is as the source has it"), "{text}");
    }
    let (text, code) = run(&["resync", "acme", "--user", "ghost"]).await;
    assert!(code == Some(0) && text.contains("the source has no user ghost: marked as deleted"), "{text}");
    bed.server.sql("acme", "DELETE FROM neon_auth.users_sync WHERE id = 'ghost'").await.unwrap();
    bed.equal().await;
    let (text, code) = run(&["resync", "acme", "--user", "none"]).await;
    assert!(code == Some(1) && text.contains("neither the source nor the target has a user none"), "{text}");
    for wrong in [&["resync", "--all", "--user", "u7"][..], &["resync", "--user", "u7"]] {
        assert_eq!(run(wrong).await.1, Some(2), "{wrong:?}");
    }
    let (text, code) = run(&["resync", "acme", "globex", "--user", "u7"]).await;
    assert!(code == Some(1) && text.contains("--user brings a user of one tenant"), "{text}");
    shown.stop().await;

    // Nothing is requested while no process runs.
    for arguments in [&["resync", "acme", "--user", "u7"][..], &["rejected", "--retry"]] {
        let (text, code) = run(arguments).await;
        assert!(code == Some(3) && text.contains("no process is running"), "{text}");
    }
    assert_eq!(bed.query("auth", "SELECT count(*) FROM users_sync.request").await[0][0].as_deref(), Some("0"));
}

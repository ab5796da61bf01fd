//! Resyncs and comparisons requested over HTTP.

use super::bed::{AdminBed, add};
use super::http::{Answer, ask, post};
use crate::support::{Bed, Service};
use serde_json::{Value, json};

/// Starts a job and waits for its end.
async fn over(shown: &AdminBed, path: &str, body: &str) -> Value {
    let begun = post(shown.at, path, body).await;
    assert_eq!(begun.status, 202, "{}", begun.body);
    let job = format!("/api/jobs/{}", begun.json()["job"].as_str().unwrap());
    shown.becomes(&job, |answer| answer.json()["state"] != "running").await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_names_and_repairs_differences() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 50).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("globex", "following").await;
    let equal = json!({"missing": 0, "extra": 0, "different": 0, "rejected": 0, "ids": []});
    let done = over(&shown, "/api/tenants/acme/verify", "{}").await;
    assert_eq!(
        (&done["state"], &done["kind"], &done["tenant"]),
        (&json!("done"), &json!("verify"), &json!("acme")),
        "{done}"
    );
    assert_eq!((&done["result"], &done["error"], &done["progress"]), (&equal, &json!(null), &json!(1.0)), "{done}");
    let damage = "DELETE FROM neon_auth.users_sync WHERE id = 'acme-0000001';
        UPDATE neon_auth.users_sync SET raw_json = '{}' WHERE id = 'acme-0000002';
        INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('ghost', '{}')";
    bed.server.sql("acme", damage).await.unwrap();
    let found = over(&shown, "/api/tenants/acme/verify", r#"{"repair": false}"#).await;
    let mut ids: Vec<&str> = found["result"]["ids"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["acme-0000001", "acme-0000002", "ghost"], "{found}");
    assert_eq!(
        (&found["result"]["missing"], &found["result"]["different"], &found["result"]["extra"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let repaired = over(&shown, "/api/tenants/acme/verify", r#"{"repair": true}"#).await;
    assert_eq!((&repaired["state"], &repaired["result"]), (&json!("done"), &equal), "{repaired}");
    bed.server.sql("acme", "DELETE FROM neon_auth.users_sync WHERE id = 'acme-0000001'").await.unwrap();
    let resynced = over(&shown, "/api/tenants/acme/resync", r#"{"allow_deletes": true}"#).await;
    assert_eq!(
        (&resynced["state"], &resynced["kind"], &resynced["result"]),
        (&json!("done"), &json!("resync"), &json!(null))
    );
    bed.equal().await;
    assert_eq!(over(&shown, "/api/tenants/acme/verify", "{}").await["result"], equal);
    // Users that the target rejects are no differences.
    bed.server.sql("acme", "CREATE UNIQUE INDEX ON neon_auth.users_sync (email)").await.unwrap();
    let twins = "INSERT INTO auth.users (id, org, email, updated_at)
                 SELECT 'twin-' || n, 'acme', 'twin@x.org', now() FROM generate_series(1, 3) n";
    bed.auth(twins).await;
    bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected", "2").await;
    let rejected = json!({"missing": 0, "extra": 0, "different": 0, "rejected": 2, "ids": []});
    assert_eq!(over(&shown, "/api/tenants/acme/verify", "{}").await["result"], rejected);
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_says_why() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 300).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    // A merge over the delete limit parks the tenant; the remedy names the option that permits it.
    bed.server
        .sql(
            "acme",
            "INSERT INTO neon_auth.users_sync (id, raw_json) SELECT 'ghost' || n, '{}' FROM generate_series(1, 300) n",
        )
        .await
        .unwrap();
    let failed = over(&shown, "/api/tenants/acme/resync", "{}").await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["error"]["remedy"].as_str().unwrap().contains("--allow-deletes"), "{failed}");
    // A tenant that is parked, or joins again, cannot be compared. The reason is that of its last attempt.
    let failed = over(&shown, "/api/tenants/acme/verify", "{}").await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["error"]["detail"].as_str().unwrap().contains("more than limits.max_deletes"), "{failed}");
    let done = over(&shown, "/api/tenants/acme/resync", r#"{"allow_deletes": true}"#).await;
    assert_eq!(done["state"], "done", "{done}");
    bed.equal().await;
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_one_job_at_a_time_and_only_json_starts_one() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 10).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    // A lock at the target keeps the first job running.
    let blocker = bed.server.connect("acme").await.unwrap();
    blocker.batch_execute("BEGIN; LOCK TABLE neon_auth.users_sync").await.unwrap();
    let first = post(shown.at, "/api/tenants/acme/verify", "{}").await.json();
    let reads = |answer: &Answer| {
        answer.json()["jobs"][0]["progress"].as_f64().is_some_and(|share| (0.0..1.0).contains(&share))
    };
    let running = shown.becomes("/api/jobs?tenant=acme", reads).await.json();
    assert_eq!((&running["next"], &running["total"]), (&json!(null), &json!(1)));
    let running = &running["jobs"];
    assert_eq!((&running[0]["job"], &running[0]["state"]), (&first["job"], &json!("running")), "{running}");
    assert_eq!(shown.get("/api/jobs?tenant=globex").await.json(), json!({"jobs": [], "next": null, "total": 0}));
    assert_eq!(shown.get("/api/jobs?tenants=acme").await.status, 400);
    let second = post(shown.at, "/api/tenants/acme/resync", "{}").await;
    assert_eq!(second.status, 409, "{}", second.body);
    assert!(second.json()["remedy"].as_str().unwrap().contains(first["job"].as_str().unwrap()), "{}", second.body);
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let job = format!("/api/jobs/{}", first["job"].as_str().unwrap());
    shown.becomes(&job, |answer| answer.json()["state"] == "done").await;

    let path = "/api/tenants/acme/resync";
    let status = async |headers: &[(&str, &str)], body: &str| ask(shown.at, "POST", path, headers, body).await.status;
    let json_ = ("Content-Type", "application/json");
    assert_eq!(status(&[("Content-Type", "application/x-www-form-urlencoded")], "allow_deletes=true").await, 415);
    assert_eq!(status(&[("Content-Type", "text/plain")], "{}").await, 415);
    assert_eq!(status(&[], "{}").await, 415);
    // A browser names the site of a form or script in `Origin`.
    assert_eq!(status(&[("Origin", "http://a.example")], "").await, 415);
    assert_eq!(status(&[("Origin", "http://a.example"), ("Content-Type", "text/plain")], "").await, 415);
    assert_eq!(status(&[json_], "{").await, 400);
    assert_eq!(status(&[json_], "[]").await, 422);
    assert_eq!(status(&[json_], r#"{"allow_delete": true}"#).await, 422);
    assert_eq!(status(&[json_], r#"{"allow_deletes": 1}"#).await, 422);
    assert_eq!(status(&[json_], &format!("{{\"allow_deletes\": {}}}", " ".repeat(20_000))).await, 413);
    let wrong = ask(shown.at, "GET", path, &[], "").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")), "{}", wrong.body);
    assert!(wrong.json()["code"] == "method_not_allowed");
    assert_eq!(post(shown.at, "/api/tenants/unlisted/resync", "{}").await.status, 404);
    assert_eq!(post(shown.at, "/api/tenants/unlisted/verify", "{}").await.status, 404);
    assert_eq!(shown.get("/api/jobs/none").await.json()["code"], "no_such_job");
    assert_eq!(ask(shown.at, "POST", "/api/jobs/none/cancel", &[], "").await.status, 404);
    assert_eq!(bed.query("auth", "SELECT count(*) FROM users_sync.request").await[0][0].as_deref(), Some("0"));
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_forwards_a_resync_request() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 10).await;
    let first = Service::start(bed.config());
    bed.equal().await;
    let shown = AdminBed::start(bed.config()).await;
    shown.becomes("/readyz", |answer| answer.json()["role"] == "standby").await;
    bed.server.sql("acme", "UPDATE neon_auth.users_sync SET name = 'Mallory' WHERE id = 'acme-0000001'").await.unwrap();
    assert_eq!(over(&shown, "/api/tenants/acme/resync", "{}").await["state"], "done");
    bed.equal().await;
    first.stop().await;
    shown.stop().await;
}

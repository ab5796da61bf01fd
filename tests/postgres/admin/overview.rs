//! The status of the process and its tenants over HTTP.

use super::bed::{AdminBed, add};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, Service};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use users_sync::model::TenantId;
use users_sync::pg::Secret;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_shows_itself_and_every_tenant_from_its_start() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 10).await;
    add(&bed, "globex", 1).await;
    add(&bed, "initech", 2).await;
    let shown = AdminBed::start(bed.config()).await;
    assert_eq!(shown.json("/healthz").await, json!({"status": "alive"}));
    shown.becomes("/readyz", |answer| answer.status == 200).await;
    shown.becomes("/readyz", |answer| answer.json()["level"] == "ok").await;
    assert_eq!(
        shown.json("/readyz").await,
        json!({"ready": true, "role": "streaming", "reason": null, "level": "ok", "reasons": []})
    );
    bed.equal().await;
    let acme = shown.state_is("acme", "following").await;
    assert_eq!(acme["target"], bed.url("acme").to_string());
    shown.state_is("globex", "following").await;
    let answer = shown.becomes("/api/status", |answer| !answer.json()["wal_held_bytes"].is_null()).await.json();
    assert_eq!(answer["tenants"], json!({"following": 2, "joining": 0, "parked": 0, "paused": 0, "unknown": 0}));
    assert_eq!(
        (&answer["role"], &answer["slot"], &answer["is_held"]),
        (&json!("streaming"), &json!("users_sync"), &json!(true))
    );
    let counted =
        shown.becomes("/api/status", |answer| answer.json()["users_without_tenant"]["users"] == 2).await.json();
    let counted = &counted["users_without_tenant"];
    assert_eq!(counted["keys"], json!([{"key": "initech", "users": 2}]));
    assert_eq!(
        (&counted["without_key"], &counted["with_unknown_key"], &counted["error"]),
        (&json!(0), &json!(2), &json!(null))
    );
    assert!(answer["tee"].is_null() && answer["source_position"].is_string(), "{answer}");
    let tenants =
        shown.becomes("/api/tenants", |answer| answer.json()["tenants"][0]["lag_bytes"].is_u64()).await.json();
    assert_eq!((&tenants["total"], &tenants["next"]), (&json!(2), &json!(null)));
    assert_eq!(tenants["tenants"][0]["lag_seconds"], 0.0);
    // A sign-up, and later a change of the same user and of another one.
    bed.auth("INSERT INTO auth.users (id, org, created_at, updated_at) VALUES ('new', 'acme', now(), now())").await;
    bed.equal().await;
    bed.auth("UPDATE auth.users SET first_name = 'Zoe', updated_at = now() + interval '1 minute' WHERE id IN ('new', 'globex-0000001')").await;
    let sums = |answer: &super::http::Answer| {
        let minutes = answer.json()["minutes"].as_array().unwrap().clone();
        assert_eq!(minutes.len(), 60);
        let sum = |key: &str| minutes.iter().map(|minute| minute[key].as_u64().unwrap()).sum::<u64>();
        (sum("changes"), sum("sign_ups"))
    };
    shown.becomes("/api/activity", |answer| sums(answer) == (3, 1)).await;
    shown.becomes("/api/activity?tenant=globex", |answer| sums(answer) == (1, 0)).await;
    assert_eq!(shown.get("/api/activity?tenant=unlisted").await.status, 404);
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_filtered_by_state_and_text_and_paged() {
    let names = ["acme", "ACME_2", "globex", "hundred", "initech"];
    let bed = Bed::start(&names).await;
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[3]).id = TenantId::new("100%");
    let shown = AdminBed::start(config).await;
    bed.equal().await;
    for name in ["acme", "ACME_2", "globex", "initech"] {
        shown.state_is(name, "following").await;
    }
    let found = async |query: &str| {
        let page = shown.json(&format!("/api/tenants?{query}")).await;
        let names =
            page["tenants"].as_array().unwrap().iter().map(|tenant| tenant["tenant"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>(), page["next"].as_str().map(str::to_owned), page["total"].as_u64().unwrap())
    };
    assert_eq!(found("limit=2").await, (vec!["100%".into(), "ACME_2".into()], Some("ACME_2".into()), 5));
    assert_eq!(found("limit=2&cursor=ACME_2").await, (vec!["acme".into(), "globex".into()], Some("globex".into()), 5));
    assert_eq!(found("limit=2&cursor=globex").await, (vec!["initech".into()], None, 5));
    assert_eq!(found("q=acME").await, (vec!["ACME_2".into(), "acme".into()], None, 2));
    assert_eq!(found("q=%25").await.0, ["100%"]);
    assert_eq!(found("q=_2").await.0, ["ACME_2"]);
    assert_eq!(found("state=parked").await, (vec![], None, 0));
    assert_eq!(found("state=following&q=i").await.0, ["initech"]);
    for bad in ["limit=0", "limit=1001", "limit=x", "state=dead", "nonsense=1", "limit=-1"] {
        let answer = shown.get(&format!("/api/tenants?{bad}")).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
        assert!(answer.json()["code"] == "invalid_request", "{}", answer.body);
    }
    let answer = shown.get("/api/tenants/unlisted").await;
    assert_eq!((answer.status, &answer.json()["remedy"]), (404, &json!(null)));
    assert_eq!(shown.get("/nowhere").await.status, 404);
    shown.stop().await;
}

/// The reason is shown although the tenant has never been up to date.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_take_its_snapshot_shows_why() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 10).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    proxy.refuse(true);
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[0]).target.port = proxy.port();
    let shown = AdminBed::start(config).await;
    let is_reported = |answer: &super::http::Answer| {
        let tenant = answer.json();
        tenant["state"] == "joining"
            && tenant["last_error"].as_str().is_some_and(|error| error.contains("cannot reach"))
    };
    shown.becomes("/api/tenants/acme", is_reported).await;
    proxy.refuse(false);
    assert_eq!(shown.state_is("acme", "following").await["last_error"], json!(null));
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_target_is_shown_with_its_reason_and_delays_no_answer() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 10).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[0]).target.port = proxy.port();
    // The server asks for no password, so any repetition of it would come from us.
    Arc::make_mut(&mut config.tenants[0]).target.password = Some(Secret("hunter2".to_owned()));
    config.source.url.password = config.tenants[0].target.password.clone();
    config.limits.park_after = std::time::Duration::from_secs(1);
    let shown = AdminBed::start(config).await;
    bed.equal().await;
    proxy.freeze(true);
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    for path in ["/healthz", "/readyz", "/metrics", "/api/status", "/api/tenants", "/api/tenants/acme"] {
        // The target stays frozen: an answer that waited for it would not come before the deadline.
        assert_eq!(shown.get(path).await.status, 200, "{path}");
    }
    let waits =
        shown.becomes("/api/tenants/acme", |answer| answer.json()["lag_seconds"].as_f64().is_some_and(|lag| lag > 0.5));
    let waits = waits.await.json();
    assert!(waits["queue_users"] == 10 && waits["queue_bytes"].as_u64().unwrap() > 1000, "{waits}");
    proxy.freeze(false);
    proxy.refuse(true);
    proxy.cut();
    let parked = shown.state_is("acme", "parked").await;
    assert!(
        parked["last_error"].is_string() && parked["remedy"].is_string() && parked["position"].is_null(),
        "{parked}"
    );
    assert_eq!(shown.json("/api/tenants?state=parked").await["total"], 1);
    assert_eq!(shown.json("/api/status").await["tenants"]["parked"], 1);
    assert_eq!(shown.json("/readyz").await["ready"], true);
    let users = shown.get("/api/tenants/acme/users").await;
    assert_eq!(users.status, 503, "{}", users.body);
    let waits = shown.get("/api/tenants/acme/users/acme-0000001?wait=1s").await;
    assert_eq!(waits.status, 503, "{}", waits.body);
    let job = super::http::post(shown.at, "/api/tenants/acme/verify", "{}").await.json();
    let job = format!("/api/jobs/{}", job["job"].as_str().unwrap());
    shown.becomes(&job, |answer| answer.json()["state"] == "failed").await;
    let paths = ["/readyz", "/metrics", "/api/status", "/api/tenants", "/api/tenants/acme", "/api/openapi.json", &job];
    for path in paths.into_iter().chain(["/api/tenants/acme/users", "/api/tenants/acme/users/x", "/nowhere"]) {
        let answer = shown.get(path).await;
        assert!(!answer.body.contains("hunter2") && !answer.body.contains("SELECT"), "{path}: {}", answer.body);
        assert!(answer.header("set-cookie").is_none());
    }
    proxy.refuse(false);
    shown.state_is("acme", "following").await;
    bed.equal().await;
    // A failed connection to a target is the answer for a second.
    shown.becomes("/api/tenants/acme/users", |answer| answer.status == 200).await;
    // What happened to acme, newest first and in pages, and a reload.
    let kinds = |page: &serde_json::Value| -> Vec<String> {
        let events = page["events"].as_array().unwrap();
        events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    };
    let page = shown.json("/api/timeline?tenant=acme").await;
    assert_eq!(kinds(&page), ["resynced", "parked", "joined"], "{page}");
    assert_eq!((&page["total"], &page["next"]), (&json!(3), &json!(null)));
    let parked = &page["events"][1];
    assert!(parked["code"] == "away" && parked["tenant"] == "acme" && parked["text"].is_string(), "{parked}");
    assert!(parked["at"].as_str().unwrap().ends_with('Z'), "{parked}");
    let first = shown.json("/api/timeline?tenant=acme&limit=2").await;
    let next = first["next"].as_str().unwrap();
    assert_eq!(kinds(&shown.json(&format!("/api/timeline?tenant=acme&limit=2&cursor={next}")).await), ["joined"]);
    for bad in ["limit=0", "cursor=x", "more=1", "tenant=%00"] {
        assert_eq!(shown.get(&format!("/api/timeline?{bad}")).await.status, 400, "{bad}");
    }
    shown.configs.send_modify(|config| config.tenants.truncate(1));
    let text = "tenants: 0 added, 1 removed, 0 with other connection settings";
    let is_reload = |event: &serde_json::Value| event["kind"] == "reloaded" && event["text"] == text;
    shown.becomes("/api/timeline", |answer| answer.json()["events"].as_array().unwrap().iter().any(is_reload)).await;
    // The list is bounded.
    let fill =
        "INSERT INTO users_sync.event (slot, kind) SELECT 'users_sync', 'reloaded' FROM generate_series(1, 3000)";
    bed.server.sql("auth", fill).await.unwrap();
    proxy.refuse(true);
    proxy.cut();
    bed.auth("UPDATE auth.users SET first_name = 'Cleo', updated_at = now()").await;
    shown.state_is("acme", "parked").await;
    let total = shown.json("/api/timeline").await["total"].as_u64().unwrap();
    assert!((1000..=1002).contains(&total), "{total}");
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_answers_from_the_state_and_takes_over() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 3).await;
    let first = Service::start(bed.config());
    bed.equal().await;
    let shown = AdminBed::start(bed.config()).await;
    shown.becomes("/readyz", |answer| answer.status == 200 && answer.json()["role"] == "standby").await;
    let acme = shown.state_is("acme", "following").await;
    assert!(acme["queue_bytes"].is_null(), "{acme}");
    let status = shown.json("/api/status").await;
    assert!(status["is_held"] == true && status["holder"].as_str().unwrap().starts_with("process "), "{status}");
    let metrics = shown.get("/metrics").await.body;
    assert!(metrics.contains("users_sync_standby 1\n") && metrics.contains("users_sync_streaming 0\n"), "{metrics}");
    assert!(!metrics.contains("tenant=\"acme\""), "{metrics}");
    // Users can be listed and waited for at a standby, too.
    assert_eq!(shown.json("/api/tenants/acme/users").await["users"].as_array().unwrap().len(), 3);
    let waiting = super::http::get(shown.at, "/api/tenants/acme/users/late?wait=30s");
    let coming = bed.auth("INSERT INTO auth.users (id, org) VALUES ('late', 'acme')");
    assert_eq!(tokio::join!(waiting, coming).0.status, 200);
    first.stop().await;
    shown.becomes("/readyz", |answer| answer.json()["role"] == "streaming").await;
    shown.stop().await;
}

/// Creating a slot waits for every transaction that has written something. The API says for which.
#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_that_a_snapshot_waits_for_is_shown() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 3).await;
    let idle = bed.server.connect("auth").await.unwrap();
    idle.batch_execute("BEGIN; CREATE TEMPORARY TABLE t ()").await.unwrap();
    let pid: i32 = idle.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let shown = AdminBed::start(bed.config()).await;
    let waits = format!("waits for the transaction of process {pid} (database auth, idle in transaction, ");
    let is_shown = |json: serde_json::Value| json["waiting"][0].as_str().is_some_and(|text| text.contains(&waits));
    shown.becomes("/api/status", |answer| is_shown(answer.json())).await;
    shown.becomes("/readyz", |answer| answer.status == 503 && answer.body.contains(&waits)).await;
    idle.batch_execute("COMMIT").await.unwrap();
    bed.equal().await;
    shown.becomes("/api/status", |answer| answer.json()["waiting"] == json!([])).await;
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_which_targets_were_not_contacted() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 1).await;
    add(&bed, "globex", 1).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
    }
    service.stop().await;
    let shown = AdminBed::start(bed.config()).await;
    // Before the session begins, it is not known.
    let sleeps = shown.becomes("/api/tenants/acme", |answer| answer.json()["contacted"] == false).await.json();
    assert_eq!((&sleeps["state"], &sleeps["last_error"]), (&json!("following"), &json!(null)), "{sleeps}");
    assert!(sleeps["position"].is_string(), "{sleeps}");
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE org = 'acme'").await;
    bed.equal().await;
    shown.becomes("/api/tenants/acme", |answer| answer.json()["contacted"] == true).await;
    assert_eq!(shown.get("/api/tenants/globex").await.json()["contacted"], false);
    let verdict = shown.get("/api/status").await.json();
    assert_eq!(verdict["verdict"]["level"], "ok", "{verdict}");
    shown.stop().await;
}

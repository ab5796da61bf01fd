//! Server-sent events report changes as they happen.

use super::bed::{AdminBed, add};
use super::http::Events;
use crate::support::Bed;
use serde_json::{Value, json};

/// The next event of this name that is as wanted. Skips others.
async fn next(events: &mut Events, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let (of, data) = events.next().await;
        if of == name && is_wanted(&data) {
            return data;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_report_arriving_users_and_changed_tenants() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 3).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("acme", "following").await;
    shown.state_is("globex", "following").await;
    let mut events = Events::of(shown.at, "/api/events?users=acme").await;
    let (name, status) = events.next().await;
    assert_eq!((&*name, &status["role"], &status["tenants"]["following"]), ("status", &json!("streaming"), &json!(2)));
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('g1', 'globex'), ('n1', 'acme'), ('n2', 'acme')").await;
    let arrived = next(&mut events, "users", |_| true).await;
    assert_eq!(arrived, json!({"tenant": "acme", "ids": ["n1", "n2"]}));
    // Only the parked tenant is reported.
    bed.server.sql("globex", "ALTER TABLE neon_auth.users_sync RENAME raw_json TO profile").await.unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Bea' WHERE org = 'globex'").await;
    let parked = |data: &Value| data["tenants"].as_array().unwrap().iter().any(|tenant| tenant["state"] == "parked");
    let changed = next(&mut events, "tenants", parked).await;
    assert_eq!(changed["tenants"].as_array().unwrap().len(), 1, "{changed}");
    assert!(changed["tenants"][0]["tenant"] == "globex" && changed["tenants"][0]["remedy"].is_string(), "{changed}");
    next(&mut events, "status", |status| status["tenants"]["parked"] == 1).await;
    // More users than one event lists.
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'm' || n, 'acme' FROM generate_series(1, 3000) n").await;
    assert_eq!(next(&mut events, "users", |_| true).await["ids"], json!([]));
    assert_eq!(shown.get("/api/events?users=unlisted").await.status, 404);
    // An open event stream does not delay the shutdown.
    shown.stop().await;
}

//! `demo --stay`: the page shows both sides and takes changes, refuses what other sites send, and nothing is left at the end.

use crate::support::demo::Demo;
use crate::support::http::{Answer, ask, get, post};
use crate::support::process::{command, said};
use crate::support::{DEADLINE, pause};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

impl Demo {
    /// Makes a change that is committed. Returns the id of the person.
    async fn change(&self, what: &str, body: Value) -> String {
        let answer = post(self.at, &format!("/demo/{what}"), &body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let committed = answer.json();
        // Null: it was not visible within the demo's time limit.
        let visible = &committed["visible_ms"];
        assert!(visible.is_null() || visible.as_f64().is_some_and(|millis| millis > 0.0), "{committed}");
        committed["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the page's right table shows the person, and the left one as `person` says.
    async fn shows(&self, id: &str, person: Option<&Value>, row: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let state = get(self.at, "/demo/state").await.json();
            let find = |side: &str| state[side].as_array().unwrap().iter().find(|row| row["id"] == id).cloned();
            let left = find("people").map(|person| json!([person["first_name"], person["last_name"]]));
            if left.as_ref() == person && find("rows").is_some_and(|found| row(&found)) {
                return;
            }
            assert!(Instant::now() < deadline, "{id} is shown as {:?} and {:?}", find("people"), find("rows"));
            pause().await;
        }
    }
}

fn sign_up(first: &str) -> String {
    json!({"organization": "acme", "first_name": first, "last_name": "Visitor"}).to_string()
}

#[track_caller]
fn refuses(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert!(answer.json()["detail"].as_str().unwrap().contains(words), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_signs_up_renames_and_deletes_people_until_the_demo_is_stopped() {
    let mut demo = Demo::start(&["--seconds", "2", "--listen", "127.0.0.1:0"]).await;
    // What a visitor types is data, in SQL and in the page.
    let first = r#"<script>alert("x")</script> '; DROP TABLE auth.users; --"#;
    let last = "O'Neil & \"Söhne\" \\ %s";
    let id = demo.change("sign-up", json!({"organization": "globex", "first_name": first, "last_name": last})).await;
    let is_live = |name: String| {
        move |row: &Value| row["tenant"] == "globex" && row["name"] == *name && row["deleted_at"].is_null()
    };
    demo.shows(&id, Some(&json!([first, last])), is_live(format!("{first} {last}"))).await;
    demo.change("rename", json!({"id": id, "first_name": "Hedy", "last_name": "Lamarr"})).await;
    demo.shows(&id, Some(&json!(["Hedy", "Lamarr"])), is_live("Hedy Lamarr".to_owned())).await;
    demo.change("delete", json!({"id": id})).await;
    demo.shows(&id, None, |row| row["deleted_at"].is_string()).await;

    // It continues after the comparison.
    demo.says("stay until Ctrl+C").await;
    let text = demo.text();
    assert!(text.contains("source and targets are equal"), "{text}");
    let id = demo.change("sign-up", json!({"organization": "acme", "first_name": "Late", "last_name": "Comer"})).await;
    demo.shows(&id, Some(&json!(["Late", "Comer"])), |row| row["name"] == "Late Comer" && row["tenant"] == "acme")
        .await;
    let row = get(demo.at, "/demo/state").await.body;
    assert!(!row.contains("encrypted_password"), "{row}");

    // The console of the same process.
    let tenants = get(demo.at, "/api/tenants").await.body;
    assert!(tenants.contains("acme") && tenants.contains("globex"), "{tenants}");

    // A server removes its directory once it has stopped.
    let Demo { process, directory, .. } = demo;
    assert_eq!(process.stop().await.code(), Some(0));
    let left: Vec<PathBuf> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_refuses_other_sites_and_invalid_names_and_loads_only_its_own_files() {
    let demo = Demo::start(&["--seconds", "1", "--listen", "127.0.0.1:0"]).await;
    let page = get(demo.at, "/demo").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let files =
        page.body.split(['"', '\'']).filter(|text| [".css", ".js", ".svg"].iter().any(|end| text.ends_with(end)));
    let files: Vec<&str> = files.collect();
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        assert_eq!(get(demo.at, &format!("/{file}")).await.status, 200, "{file}");
    }

    let (json, body) = (("Content-Type", "application/json"), sign_up("Eve"));
    let send = async |headers: &[(&str, &str)]| ask(demo.at, "POST", "/demo/sign-up", headers, &body).await;
    let own = format!("http://{}", demo.at);
    assert_eq!(send(&[json, ("Origin", &own), ("Sec-Fetch-Site", "same-origin")]).await.status, 200);
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        refuses(&send(&[json, ("Origin", origin)]).await, 403, "another site");
    }
    refuses(&send(&[json, ("Sec-Fetch-Site", "cross-site")]).await, 403, "another site");
    refuses(&send(&[("Content-Type", "text/plain")]).await, 415, "application/json");
    // DNS rebinding: the page of another site, under a host name of its own.
    for path in ["/demo", "/demo/state"] {
        refuses(&ask(demo.at, "GET", path, &[("Host", "evil.example")], "").await, 400, "this machine");
    }
    let rebound = [json, ("Host", "evil.example"), ("Origin", "http://evil.example")];
    refuses(&send(&rebound).await, 400, "this machine");

    let sign_up = async |first: &str| post(demo.at, "/demo/sign-up", &sign_up(first)).await;
    assert_eq!(sign_up(&"ä".repeat(100)).await.status, 200);
    refuses(&sign_up(&"a".repeat(101)).await, 422, "the first name must have 1 to 100 characters");
    refuses(&sign_up("").await, 422, "1 to 100 characters");
    refuses(&sign_up(" ").await, 422, "1 to 100 characters");
    refuses(&sign_up("\0").await, 422, "U+0000");
    let wrong = json!({"organization": "initech", "first_name": "a", "last_name": "b"}).to_string();
    refuses(&post(demo.at, "/demo/sign-up", &wrong).await, 422, "acme, globex");
    for id in ["00000000-0000-0000-0000-000000000000", "x' OR 'x' = 'x"] {
        refuses(&post(demo.at, "/demo/delete", &json!({"id": id}).to_string()).await, 404, "no such person");
    }
    // Only the two permitted sign-ups were made.
    let state = get(demo.at, "/demo/state").await.json();
    let people = state["people"].as_array().unwrap();
    assert_eq!(people.iter().filter(|person| person["last_name"] == "Visitor").count(), 2, "{state}");

    // Another demo cannot use the same port.
    let (text, code) = said(&command(&["demo", "--stay", "--listen", &demo.at.to_string()]).await);
    assert!(code == Some(1) && text.contains(&format!("cannot listen on {}", demo.at)), "{text}");
    assert_eq!(demo.process.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_is_stopped_during_its_simulated_life_and_a_port_is_found_where_none_is_given() {
    let one = Demo::start(&["--seconds", "600"]).await;
    let other = Demo::start(&["--seconds", "600"]).await;
    assert_ne!(one.at, other.at);
    for demo in [one, other] {
        assert_eq!(get(demo.at, "/demo").await.status, 200);
        assert_eq!(demo.process.stop().await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_a_usage_error() {
    for (arguments, words) in [
        (&["--stay", "--listen", "0.0.0.0:9187"][..], "no password"),
        (&["--stay", "--listen", "[::]:9187"], "no password"),
        (&["--stay", "--listen", "9187"], "127.0.0.1:9187"),
        (&["--listen", "127.0.0.1:9187"], "--stay"),
    ] {
        let (text, code) = said(&command(&[&["demo"], arguments].concat()).await);
        assert!(code == Some(2) && text.contains(words), "{arguments:?}: {text}");
    }
}

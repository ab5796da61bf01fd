//! The users of a tenant over HTTP: pages, search, single users and waiting.

use super::bed::{AdminBed, add};
use super::http::{Answer, get};
use crate::support::{Bed, GENERATED, pause};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn ids(page: &Value) -> Vec<String> {
    page["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a search.
async fn all(shown: &AdminBed, query: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = shown.json(&format!("/api/tenants/acme/users?{query}{cursor}")).await;
        found.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => {
                cursor = format!(
                    "&cursor={}",
                    percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
                )
            }
            None => {
                assert_eq!(page["searched_all"], true);
                return found;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_is_on_exactly_one_page() {
    for shape in ["", GENERATED] {
        let bed = Bed::start(&["acme"]).await;
        bed.server.sql("acme", shape).await.unwrap();
        add(&bed, "acme", 120).await;
        let shown = AdminBed::start(bed.config()).await;
        bed.equal().await;
        let expected: Vec<String> = (1..=120).map(|n| format!("acme-{n:07}")).collect();
        for limit in [1, 7, 60, 119, 120, 121, 200] {
            assert_eq!(all(&shown, &format!("limit={limit}")).await, expected, "{limit}");
        }
        let page = shown.json("/api/tenants/acme/users?limit=1").await;
        let user = &page["users"][0];
        assert_eq!(
            (&user["name"], &user["email"], &user["deleted_at"]),
            (&json!("Ann No1"), &json!("ann1@example.org"), &json!(null))
        );
        assert!(user["created_at"].as_str().unwrap().ends_with('Z') && user.get("raw_json").is_none(), "{user}");
        let user = shown.json("/api/tenants/acme/users/acme-0000001").await;
        assert_eq!((&user["raw_json"]["first_name"], &user["id"]), (&json!("Ann"), &json!("acme-0000001")));
        assert!(user["raw_json"].get("encrypted_password").is_none());
        shown.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_literal_and_case_insensitive() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, email) VALUES
         ('per%cent', 'acme', 'Ann', 'a@example.org'), ('under_score', 'acme', 'Bea', 'b@example.org'),
         ('back\\slash', 'acme', 'Cleo', 'c@example.org'), ('quo''te', 'acme', 'Dora \"D\"', 'd+x@example.org'),
         ('ünï/cödé?', 'acme', 'ÉMILE', 'e@example.org'), ('nameless', 'acme', NULL, NULL),
         ('gone', 'acme', 'Ann', 'gone@example.org')",
    )
    .await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    bed.auth("DELETE FROM auth.users WHERE id = 'gone'").await;
    shown.becomes("/api/tenants/acme/users/gone", |answer| answer.json()["deleted_at"].is_string()).await;
    let search = async |text: &str| {
        let text = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
        all(&shown, &format!("limit=3&search={text}")).await
    };
    assert_eq!(search("%").await, ["per%cent"]);
    assert_eq!(search("_").await, ["under_score"]);
    assert_eq!(search("\\").await, ["back\\slash"]);
    assert_eq!(search("'").await, ["quo'te"]);
    assert_eq!(search("\"d\"").await, ["quo'te"]);
    assert_eq!(search("d+X@").await, ["quo'te"]);
    assert_eq!(search("ann").await, ["gone", "per%cent"]);
    assert_eq!(search("C@EXAMPLE").await, ["back\\slash"]);
    assert_eq!(search("ÉMILE").await, ["ünï/cödé?"]);
    assert_eq!(search("nothing like it").await, [""; 0]);
    assert_eq!(all(&shown, "deleted=true").await, ["gone"]);
    assert_eq!(all(&shown, "deleted=false&search=ann").await, ["per%cent"]);
    assert_eq!(all(&shown, "").await.len(), 7);
    let total = async |query: &str| {
        let page = shown.json(&format!("/api/tenants/acme/users?limit=2{query}")).await;
        (page["total"].as_u64(), page["is_estimate"].as_bool().unwrap())
    };
    assert_eq!((total("").await, total("&deleted=true").await), ((Some(7), false), (Some(1), false)));
    assert_eq!((total("&deleted=false").await, total("&search=ann").await), ((Some(6), false), (Some(2), false)));
    assert_eq!((total("&search=e").await, total("&search=%25").await), ((None, false), (Some(1), false)));
    let counts = shown.json("/api/tenants/acme/counts").await;
    assert_eq!((&counts["users"], &counts["deleted"], &counts["total"]), (&json!(6), &json!(1), &json!(7)), "{counts}");
    assert!(counts["last_change"].as_str().unwrap().ends_with('Z') && counts["is_estimate"] == false, "{counts}");
    let user = shown.json("/api/tenants/acme/users/%C3%BCn%C3%AF%2Fc%C3%B6d%C3%A9%3F").await;
    assert_eq!(user["id"], "ünï/cödé?");
    for bad in [
        "users?limit=0",
        "users?limit=201",
        "users?limit=x",
        "users?deleted=maybe",
        "users?sort=raw_json",
        "users?descending=2",
        "users?other=1",
        "users?search=%00",
        "users?cursor=%00",
        "users/%00",
        "users/x?wait=5",
        "users/x?wait=31s",
        "users/x?wait=-1s",
        "users/%FF",
    ] {
        let answer = shown.get(&format!("/api/tenants/acme/{bad}")).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
        assert!(answer.json()["code"] == "invalid_request", "{}", answer.body);
    }
    for absent in ["/api/tenants/unlisted/users", "/api/tenants/unlisted/users/x", "/api/tenants/acme/users/absent"] {
        assert_eq!(shown.get(absent).await.status, 404, "{absent}");
    }
    shown.stop().await;
}

/// Users share values, and some have none: each is on exactly one page in every order.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_sorted_by_every_column_up_to_a_number_of_users() {
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    shown.state_is("acme", "following").await;
    // Insert directly into the target: only the list is tested.
    let fill = "INSERT INTO neon_auth.users_sync (id, raw_json, name, email, created_at, updated_at, deleted_at)
        SELECT 'u' || n, '{}', CASE WHEN n % 5 > 0 THEN (CASE WHEN n % 2 = 0 THEN 'b' ELSE 'A' END) || n % 3 END, 'E' || 99 - n,
          CASE WHEN n % 7 > 0 THEN timestamptz '2026-01-01' + (n / 2) * interval '1 day' END,
          timestamptz '2026-01-01' - n * interval '1 microsecond',
          CASE WHEN n % 4 = 0 THEN timestamptz 'infinity' END FROM generate_series(10, 60) n";
    bed.server.sql("acme", fill).await.unwrap();
    for (sort, key) in [
        ("id", "NULL::text"),
        ("name", "lower(name) COLLATE \"C\""),
        ("email", "lower(email) COLLATE \"C\""),
        ("created_at", "created_at"),
        ("updated_at", "updated_at"),
        ("deleted_at", "deleted_at"),
    ] {
        for (descending, direction) in [("false", ""), ("true", "DESC")] {
            let of_id = if sort == "id" { direction } else { "" };
            let order = format!("ORDER BY {key} {direction} NULLS LAST, id {of_id}");
            let expected = bed.query("acme", &format!("SELECT id FROM neon_auth.users_sync {order}")).await;
            let expected: Vec<String> = expected.into_iter().map(|row| row[0].clone().unwrap()).collect();
            for limit in [1, 4, 200] {
                let query = format!("limit={limit}&sort={sort}&descending={descending}");
                assert_eq!(all(&shown, &query).await, expected, "{query}");
            }
        }
    }
    let newest = "search=a&deleted=false&sort=created_at&descending=true&limit=3";
    let expected = "SELECT id FROM neon_auth.users_sync WHERE name ILIKE '%a%' AND deleted_at IS NULL
        ORDER BY created_at DESC NULLS LAST, id";
    let expected = bed.query("acme", expected).await.into_iter().map(|row| row[0].clone().unwrap());
    assert_eq!(all(&shown, newest).await, expected.collect::<Vec<_>>());
    let page = shown.json("/api/tenants/acme/users?sort=name&cursor=nonsense").await;
    assert_eq!((&page["sort"], &page["searched_all"]), (&json!("name"), &json!(true)));
    // Above the limit users are shown by id, and estimated.
    let more =
        "INSERT INTO neon_auth.users_sync (id, raw_json) SELECT md5(n::text), '{}' FROM generate_series(1, 200000) n;
        ANALYZE neon_auth.users_sync";
    bed.server.sql("acme", more).await.unwrap();
    let first = shown.json("/api/tenants/acme/users?sort=created_at&descending=true&limit=2").await;
    assert_eq!((&first["sort"], &first["is_estimate"]), (&json!("id"), &json!(true)), "{first}");
    assert!(first["total"].as_u64().unwrap() > 200_000, "{first}");
    let next =
        percent_encoding::utf8_percent_encode(first["next"].as_str().unwrap(), percent_encoding::NON_ALPHANUMERIC);
    let second = shown.json(&format!("/api/tenants/acme/users?sort=created_at&limit=2&cursor={next}")).await;
    let by_id = bed.query("acme", "SELECT id FROM neon_auth.users_sync ORDER BY id LIMIT 4").await;
    let by_id: Vec<String> = by_id.into_iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!([ids(&first), ids(&second)].concat(), by_id);
    let counts = shown.json("/api/tenants/acme/counts").await;
    assert!(counts["users"].is_null() && counts["total"].as_u64().unwrap() > 200_000, "{counts}");
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_of_a_large_tenant_answers_in_time_with_a_cursor() {
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    shown.state_is("acme", "following").await;
    // Insert directly into the target: only the search is tested.
    bed.server
        .sql(
            "acme",
            "INSERT INTO neon_auth.users_sync (id, raw_json, name, email)
             SELECT md5(n::text), '{}', 'Ann ' || n, 'ann' || n || '@example.org' FROM generate_series(1, 200000) n;
             UPDATE neon_auth.users_sync SET name = 'Needle' WHERE email IN ('ann7@example.org', 'ann199999@example.org');
             ANALYZE neon_auth.users_sync",
        )
        .await
        .unwrap();
    assert_eq!(all(&shown, "search=needle").await.len(), 2);
    assert_eq!(all(&shown, "search=nothing%20like%20it").await.len(), 0);
    assert_eq!(shown.json("/api/tenants/acme/users?search=ann").await["users"].as_array().unwrap().len(), 50);
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_sign_up_or_with_404() {
    let bed = Bed::start(&["acme", "globex"]).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("acme", "following").await;
    shown.state_is("globex", "following").await;
    let begun = Instant::now();
    assert_eq!(shown.get("/api/tenants/acme/users/unlisted?wait=1s").await.status, 404);
    assert!(begun.elapsed() >= Duration::from_secs(1), "it ended before its time limit: {:?}", begun.elapsed());
    let waiting = get(shown.at, "/api/tenants/acme/users/u1?wait=30s");
    let coming = async {
        pause().await;
        // The same id in another tenant is another user.
        bed.auth("INSERT INTO auth.users (id, org) VALUES ('u1', 'globex')").await;
        bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('u1', 'acme', 'Ann')").await;
    };
    let (answer, ()) = tokio::join!(waiting, coming);
    assert_eq!((answer.status, &answer.json()["name"]), (200, &json!("Ann")));
    // A present user is answered at once. A user that arrives with a snapshot ends a wait, too.
    assert_eq!(shown.get("/api/tenants/acme/users/u1?wait=30s").await.status, 200);
    bed.server.sql("acme", "DELETE FROM neon_auth.users_sync WHERE id = 'u1'").await.unwrap();
    let waiting = get(shown.at, "/api/tenants/acme/users/u1?wait=30s");
    let resync = async { super::http::post(shown.at, "/api/tenants/acme/resync", "{}").await };
    let (answer, begun) = tokio::join!(waiting, resync);
    assert_eq!((answer.status, begun.status), (200, 202), "{} {}", answer.body, begun.body);
    // A deleted user is shown but does not end a wait. Its new sign-up does.
    bed.auth("DELETE FROM auth.users WHERE id = 'u1'").await;
    let is_deleted = |answer: &Answer| answer.json()["deleted_at"].is_string();
    shown.becomes("/api/tenants/acme/users/u1", is_deleted).await;
    assert_eq!(shown.get("/api/tenants/acme/users/u1?wait=1s").await.status, 404);
    let waiting = get(shown.at, "/api/tenants/acme/users/u1?wait=30s");
    let again = bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('u1', 'acme', 'Ann again')");
    let (answer, ()) = tokio::join!(waiting, again);
    assert_eq!((answer.status, &answer.json()["name"]), (200, &json!("Ann again")));
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_a_locked_table_share_one_connection() {
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("acme", "following").await;
    let migration = bed.server.connect("acme").await.unwrap();
    migration.batch_execute("BEGIN; LOCK neon_auth.users_sync IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND application_name LIKE 'users-sync%'";
    for _ in 0..2 {
        let asking = (0..20).map(|n| {
            let at = shown.at;
            tokio::spawn(async move { get(at, &format!("/api/tenants/acme/users/u{n}")).await })
        });
        for asked in asking.collect::<Vec<_>>() {
            let answer = asked.await.unwrap();
            assert!(answer.status == 503 && answer.body.contains("does not answer"), "{}", answer.body);
        }
    }
    let held = bed.query("acme", ours).await[0][0].clone().unwrap();
    assert!(held.parse::<u32>().unwrap() <= 2, "{held} connections of ours");
    migration.batch_execute("COMMIT").await.unwrap();
    shown.becomes("/api/tenants/acme/users/u1", |answer| answer.status == 404).await;
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waits_share_one_connection() {
    const WAITING: usize = 1_000;
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("acme", "following").await;
    let waiting: Vec<_> = (0..WAITING)
        .map(|n| {
            let at = shown.at;
            tokio::spawn(async move { get(at, &format!("/api/tenants/acme/users/w{n}?wait=30s")).await.status })
        })
        .collect();
    // One connection of the service, one shared by all waits, and the one that counts.
    let connections =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND application_name LIKE 'users-sync%'";
    bed.becomes("acme", connections, "2").await;
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org) SELECT 'w' || n, 'acme' FROM generate_series(0, {}) n",
        WAITING - 1
    ))
    .await;
    for task in waiting {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(bed.query("acme", connections).await[0][0].as_deref(), Some("2"));
    shown.stop().await;
}

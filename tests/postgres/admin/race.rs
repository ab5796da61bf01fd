//! The sign-up race: a wait over HTTP that starts before or after the source's commit ends with the user.

use super::bed::AdminBed;
use super::http::get;
use crate::support::Bed;
use std::time::{Duration, Instant};

const SIGN_UPS: usize = 300;

/// Printed for documentation. Speed is asserted by `make bench` only.
fn print_latencies(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 100];
    println!("{what}: p50 {:.1?}, p99 {:.1?}, most {:.1?} of {}", at(50), at(99), took[took.len() - 1], took.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_starts_before_or_after_the_commit_ends_with_the_user() {
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("acme", "following").await;
    let source = bed.server.connect("auth").await.unwrap();
    let sign_up = async |id: &str| {
        source.execute("INSERT INTO auth.users (id, org) VALUES ($1, 'acme')", &[&id]).await.unwrap();
        Instant::now()
    };
    let path = |id: &str| format!("/api/tenants/acme/users/{id}?wait=30s");

    // As an application does: sign up a user, then ask.
    let mut asked = Vec::new();
    for n in 0..SIGN_UPS {
        let id = format!("a{n}");
        let committed = sign_up(&id).await;
        assert_eq!(get(shown.at, &path(&id)).await.status, 200);
        asked.push(committed.elapsed());
    }
    // The same when the wait began before the commit.
    let mut waited = Vec::new();
    for n in 0..SIGN_UPS {
        let id = format!("w{n}");
        let (at, path) = (shown.at, path(&id));
        let waiting = tokio::spawn(async move { (get(at, &path).await.status, Instant::now()) });
        // The request has checked the target and is waiting.
        let registered = Instant::now();
        while shown.status.user_watch.watchers() == 0 {
            assert!(registered.elapsed() < crate::support::DEADLINE);
            tokio::task::yield_now().await;
        }
        let committed = sign_up(&id).await;
        let (status, answered) = waiting.await.unwrap();
        assert_eq!(status, 200);
        waited.push(answered.saturating_duration_since(committed));
    }
    print_latencies("asked after the commit", asked);
    print_latencies("waited before the commit", waited);
    shown.stop().await;
}

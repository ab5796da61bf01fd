//! The main way on real servers: snapshot, stream, restart, and whatever a source's transaction can hold.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Bed, Service};

#[tokio::test(flavor = "multi_thread")]
async fn users_appear_in_their_tenants_and_follow_every_change() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, email)
         SELECT 'u' || n, (ARRAY['acme', 'globex', 'nobody'])[1 + n % 3], 'Ann', n || '@x.org' FROM generate_series(1, 3000) n",
    )
    .await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, last_name) VALUES ('new', 'acme', 'New', 'One')").await;
    bed.auth("UPDATE auth.users SET email = '', last_name = 'Changed', updated_at = now() WHERE id < 'u2'").await;
    bed.auth("DELETE FROM auth.users WHERE id > 'u5'").await;
    bed.auth("UPDATE auth.users SET org = 'globex', updated_at = now() WHERE org = 'acme' AND id < 'u15'").await;
    bed.equal().await;
    service.stop().await;
    bed.auth("UPDATE auth.users SET email = 'while@away', updated_at = now() WHERE id LIKE '%7'").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

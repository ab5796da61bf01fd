//! The users of a tenant.

use crate::bed::{Shown, add};
use crate::support::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn users_come_in_pages() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 120).await;
    let shown = Shown::start(bed.config()).await;
    bed.equal().await;
    let page = shown.json("/api/tenants/acme/users?limit=50").await;
    assert_eq!(page["users"].as_array().unwrap().len(), 50);
    shown.stop().await;
}

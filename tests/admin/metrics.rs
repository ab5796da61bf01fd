//! What is counted.

use crate::bed::{Shown, add};
use crate::support::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn a_known_workload_has_known_numbers() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 10).await;
    let shown = Shown::start(bed.config()).await;
    bed.equal().await;
    shown.state_is("globex", "following").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('n1', 'acme')").await;
    bed.equal().await;
    let text = shown.get("/metrics").await.body;
    assert!(text.contains("users_sync_tenant_rows_applied_total{tenant=\"acme\"} 1\n"), "{text}");
    shown.stop().await;
}

//! A slow, unreachable or huge tenant affects no other; tenants that join together share one pass over the table.

use crate::support::majors::at_least;
use crate::support::process::Process;
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, Service, let_pass};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use users_sync::throwaway::Options;

const REASON: &str = "SELECT coalesce(reason, '') FROM users_sync.tenant WHERE tenant = 'acme'";

async fn add(bed: &Bed, tenant: &str, users: u32) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, updated_at)
         SELECT '{tenant}' || n, '{tenant}', 'Ann', now() FROM generate_series(1, {users}) n"
    ))
    .await;
}

/// Puts acme's target behind a proxy.
async fn behind_a_proxy(bed: &Bed) -> (TcpProxy, users_sync::config::Config) {
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[0]).target.port = proxy.port();
    (proxy, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_tenant_is_parked_at_its_budget_while_the_others_follow() {
    let bed = Bed::start(&["acme", "globex"]).await;
    for tenant in ["acme", "globex"] {
        add(&bed, tenant, 2_000).await;
    }
    let (proxy, mut config) = behind_a_proxy(&bed).await;
    config.limits.tenant_memory = 256 << 10;
    // Waiting for it is not allowed: it accepts no rows.
    config.limits.stall = Duration::from_secs(3600);
    let service = Service::start(config);
    bed.equal().await;
    proxy.refuse(true);
    proxy.cut();
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id = 'acme1'").await;
    bed.becomes("auth", "SELECT reason IS NOT NULL FROM users_sync.tenant WHERE tenant = 'acme'", "t").await;
    bed.auth("UPDATE auth.users SET first_name = 'Cleo', updated_at = now()").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Cleo'", "2000").await;
    bed.state_is("acme", "parked").await;
    bed.becomes("auth", REASON, "its queued changes exceed limits.tenant_memory or limits.memory").await;
    proxy.refuse(false);
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_version_of_a_user_waits_for_an_unreachable_target() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 50).await;
    let (proxy, mut config) = behind_a_proxy(&bed).await;
    // Enough for fifty users, but not for a hundred versions of each.
    config.limits.tenant_memory = 200 << 10;
    let service = Service::start(config);
    bed.equal().await;
    proxy.refuse(true);
    proxy.cut();
    for n in 0..100 {
        bed.auth(&format!("UPDATE auth.users SET first_name = 'v{n}', updated_at = now()")).await;
    }
    add(&bed, "globex", 1).await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "1").await;
    bed.becomes("auth", "SELECT state FROM users_sync.tenant WHERE tenant = 'acme'", "following").await;
    proxy.refuse(false);
    bed.equal().await;
    // It was never parked: it has followed since the first snapshot.
    let since = "SELECT since < (SELECT min(updated_at) FROM auth.users WHERE org = 'acme') FROM users_sync.tenant WHERE tenant = 'acme'";
    bed.becomes("auth", since, "t").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tenants_together_stay_within_the_common_memory() {
    let bed = Bed::start(&["acme", "globex", "initech"]).await;
    for tenant in ["acme", "globex", "initech"] {
        add(&bed, tenant, 2_000).await;
    }
    let (proxy, mut config) = behind_a_proxy(&bed).await;
    Arc::make_mut(&mut config.tenants[1]).target.port = proxy.port();
    config.limits.memory = 512 << 10;
    let service = Service::start(config);
    bed.equal().await;
    proxy.refuse(true);
    proxy.cut();
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id IN ('acme1', 'globex1')").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.tenant WHERE reason IS NOT NULL", "2").await;
    bed.auth("UPDATE auth.users SET first_name = 'Cleo', updated_at = now()").await;
    bed.becomes("initech", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Cleo'", "2000").await;
    bed.becomes("auth", "SELECT count(*) > 0 FROM users_sync.tenant WHERE state = 'parked'", "t").await;
    proxy.refuse(false);
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_alone_is_never_parked_for_being_slow() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 20_000).await;
    let (proxy, mut config) = behind_a_proxy(&bed).await;
    config.limits.tenant_memory = 256 << 10;
    config.limits.stall = Duration::from_millis(50);
    let service = Service::start(config);
    bed.equal().await;
    proxy.set_delay(Duration::from_millis(100));
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'", "20000").await;
    // No second snapshot: it has followed since the first one.
    let since =
        "SELECT since < (SELECT max(updated_at) FROM auth.users) FROM users_sync.tenant WHERE state = 'following'";
    bed.becomes("auth", since, "t").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_join_together_read_the_table_once() {
    const TENANTS: usize = 30;
    let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // From here on each session reports its statistics when asked.
    let bed = Bed::start_with(&names, at_least(15)).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 't' || n % 30 FROM generate_series(1, 30000) n").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    // Our own statistics query reads the table, too.
    let reads = "SELECT coalesce(seq_tup_read, 0) FROM pg_stat_user_tables WHERE relname = 'users'";
    bed.auth("SELECT pg_stat_force_next_flush()").await;
    let read = |rows: Vec<Vec<Option<String>>>| rows[0][0].clone().unwrap().parse::<u64>().unwrap();
    let before = read(bed.query("auth", reads).await);
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) SELECT slot, tenant, false FROM users_sync.tenant").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    service.stop().await;
    let_pass(Duration::from_millis(1)).await;
    let rows = read(bed.query("auth", reads).await) - before;
    assert!((30_000..=60_000).contains(&rows), "{rows} rows were read for {TENANTS} tenants of 1,000 each");
}

/// Every snapshot needs a slot for a moment, and the last free one is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_join_does_not_disturb_the_others() {
    let bed = Bed::start_with(&["acme", "globex"], Options::new().set("max_replication_slots", "2")).await;
    for tenant in ["acme", "globex"] {
        add(&bed, tenant, 10).await;
    }
    let (first, both) = (bed.config_file(""), bed.config_file(""));
    let text = std::fs::read_to_string(first.path()).unwrap();
    let one = text.lines().filter(|line| !line.contains("globex")).collect::<Vec<_>>().join("\n");
    std::fs::write(first.path(), one).unwrap();
    let (process, log) = Process::start_logged(&first);
    bed.state_is("acme", "following").await;
    bed.auth("SELECT pg_create_physical_replication_slot('somebodys')").await;
    std::fs::copy(both.path(), first.path()).unwrap();
    log.says("cannot take a snapshot until this is fixed; its tenants will retry").await;
    let why = "SELECT reason LIKE '%all replication slots are in use%' FROM users_sync.tenant WHERE tenant = 'globex'";
    bed.becomes("auth", why, "t").await;
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'", "10").await;
    assert_eq!(bed.query("auth", "SELECT count(*) FROM users_sync.epoch").await[0][0].as_deref(), Some("1"));
    bed.auth("SELECT pg_drop_replication_slot('somebodys')").await;
    bed.state_is("globex", "following").await;
    bed.equal().await;
    assert!(process.stop().await.success());
}

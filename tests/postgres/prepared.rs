//! The statements of batches are prepared, directly and behind poolers that keep track of them; no other pooler is left with
//! statements of ours.

use crate::support::Bed;
use crate::support::pooler::Pooler;
use crate::support::process::{Process, config_file};
use users_sync::throwaway::Options;

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_prepared_where_the_way_to_the_target_allows_it() {
    let options = Options::new().set("log_statement", "all").set("log_line_prefix", "%d ");
    let bed = Bed::start_with(&["direct", "untracked", "ignored", "tracked"], options).await;
    // All transactions of a tenant share one session of the server.
    let one = |more: &str| format!("default_pool_size = 1\n{more}");
    let user = &["postgres"][..];
    let untracked = Pooler::start_tracking(&bed.server, user, &one("max_prepared_statements = 0"));
    let ignored = Pooler::start_tracking(
        &bed.server,
        user,
        &one("max_prepared_statements = 0\nignore_startup_parameters = options"),
    );
    let tracked = Pooler::start_tracking(&bed.server, user, &one("max_prepared_statements = 10"));
    let targets = [
        ("direct", bed.server.url("direct")),
        ("untracked", untracked.url_for("postgres", "untracked")),
        ("ignored", ignored.url_for("postgres", "ignored")),
        ("tracked", tracked.url_for("postgres", "tracked")),
    ];
    let targets = targets.map(|(tenant, url)| (tenant.to_owned(), url));
    let file = config_file(&bed.server.url("auth"), &targets, "");
    let (process, log) = Process::start_logged(&file);
    for tenant in &bed.tenants {
        bed.state_is(tenant, "following").await;
    }
    let insert = |ids: &str| {
        format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at) SELECT org || n, org, 'Ann', now() \
             FROM {ids} n, unnest('{{direct,untracked,ignored,tracked}}'::text[]) org"
        )
    };
    // Batches of one row, then a transaction of several statements.
    for n in 0..6 {
        bed.auth(&insert(&format!("generate_series({n}, {n})"))).await;
        bed.equal().await;
    }
    bed.auth(&insert("generate_series(100, 10100)")).await;
    bed.equal().await;
    for name in ["Bea", "Cid", "Dan"] {
        bed.auth(&format!("UPDATE auth.users SET first_name = '{name}', updated_at = now()")).await;
        bed.equal().await;
    }
    bed.auth("DELETE FROM auth.users WHERE id ~ '7$'").await;
    bed.equal().await;

    let text = std::fs::read_to_string(bed.server.data_dir().with_file_name("server.log")).unwrap();
    let batches = |tenant: &str, name: &str| {
        let of = format!("{tenant} LOG:  execute {name}");
        text.lines().filter(|line| line.starts_with(&of) && line.contains(": WITH ")).count()
    };
    for (tenant, name) in [("direct", "s"), ("tracked", "PGBOUNCER_")] {
        assert!(batches(tenant, "<unnamed>") >= 3, "{tenant}: each statement runs unprepared at first");
        assert!(batches(tenant, name) >= 6, "{tenant}");
    }
    for tenant in ["untracked", "ignored"] {
        assert_eq!(batches(tenant, "s") + batches(tenant, "PGBOUNCER_"), 0, "{tenant}");
        assert!(batches(tenant, "<unnamed>") >= 9, "{tenant}");
    }
    // The pool's session after ours: nothing is left in it.
    for (pooler, tenant) in [(&untracked, "untracked"), (&ignored, "ignored")] {
        let config: tokio_postgres::Config = pooler.url_for("postgres", tenant).parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let left = "SELECT count(*)::text || ' ' || current_setting('plan_cache_mode') FROM pg_prepared_statements";
        let messages = client.simple_query(left).await.unwrap();
        let shown = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(shown, Some("0 auto"), "{tenant}");
    }
    assert!(process.stop().await.success());
    for line in log.text().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")) {
        assert!(line.contains("targets share a role") || line.contains("no spool.directory"), "{line}");
    }
}

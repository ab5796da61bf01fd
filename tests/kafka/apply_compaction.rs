//! Tenants join from a topic while the broker compacts it as hard as it can.

use crate::apply::section;
use crate::broker::Broker;
use crate::consumer::read;
use crate::support::process::Process;
use crate::support::{Bed, DEADLINE, pause};
use std::time::Instant;

const TENANTS: [&str; 4] = ["ant", "bee", "cat", "dog"];
const ROUNDS: usize = 4;

/// A topic whose closed segments may be compacted at once. Deletes stay for a day, as a worker needs them.
const COMPACTED: [&str; 6] = [
    "cleanup.policy=compact",
    "segment.bytes=1048576",
    "segment.ms=300",
    "min.compaction.lag.ms=0",
    "max.compaction.lag.ms=300",
    "min.cleanable.dirty.ratio=0.01",
];

/// Most records are superseded, and every user that was read at a snapshot changes or goes before a tenant joins: its `r` is gone then.
async fn change(bed: &Bed, round: usize) {
    let sql = format!(
        "INSERT INTO auth.users (id, org, first_name, profile) \
           SELECT 'u' || n, org, 'round {round}', jsonb_build_object('filler', repeat('{round}', 400)) \
           FROM generate_series(1, 200) n, unnest(ARRAY['{}']) org \
         ON CONFLICT (id, org) DO UPDATE SET first_name = excluded.first_name, profile = excluded.profile, updated_at = now(); \
         DELETE FROM auth.users WHERE id = 'u' || (1 + {round} % 200)",
        TENANTS.join("','")
    );
    bed.auth(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_join_while_the_topic_is_compacted() {
    let (broker, topic) = (Broker::shared(), "squeezed.users");
    let address = broker.address();
    let create = ["--bootstrap-server", &address, "--create", "--topic", topic, "--partitions", "3"];
    let configs = COMPACTED.iter().flat_map(|line| ["--config", *line]);
    let arguments: Vec<&str> = create.into_iter().chain(configs).collect();
    broker.tool("org.apache.kafka.tools.TopicCommand", &arguments).await;
    let bed = Bed::start(&TENANTS).await;
    let file = bed.config_file(&section(broker, "squeezed", "group: squeezed"));
    change(&bed, 0).await;
    let (publisher, _publisher_log) = Process::start_logged(&file);
    let (worker, log) = Process::apply(&file);
    bed.equal().await;
    let (mut round, mut published) = (0, TENANTS.len() * 200);
    for joining in 0..ROUNDS {
        let target = TENANTS[joining % TENANTS.len()];
        let rebuilt = || log.text().matches("rebuilding from the topic").count();
        let before = rebuilt();
        bed.server.sql(target, "DROP SCHEMA neon_auth CASCADE; DROP SCHEMA users_sync CASCADE").await.unwrap();
        // Until records were removed since the target was lost, and the tenant reads the partition.
        let deadline = Instant::now() + DEADLINE;
        loop {
            round += 1;
            change(&bed, round).await;
            published += TENANTS.len() * 201;
            if round % 5 == 0 && read(broker, topic).len() < published / 2 && rebuilt() > before {
                break;
            }
            assert!(Instant::now() < deadline, "{target}: {published} published, {} rebuilt", rebuilt());
            pause().await;
        }
        bed.equal().await;
    }
    assert!(worker.stop().await.success() && publisher.stop().await.success());
}

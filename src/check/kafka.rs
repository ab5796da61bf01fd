//! Checks that Kafka's brokers respond, that the topics exist unless they are created automatically, that a schema
//! registry accepts their schemas, and that they belong to this installation and hold what it published. Writes nothing and disturbs no producer.

use super::finding::{Finding, Subject};
use crate::capture::ReplicationConnection;
use crate::capture::slot::identify_system;
use crate::config::{Config, Kafka, TOPICS_REMEDY, Topics};
use crate::model::{CheckpointKey, Code, StatusFinding, TeeRestart, TopicTrouble};
use crate::state::{Snapshot, TeePublished};
use crate::tee::kafka::{Failure, Found, blocking, existing_topics, look, refuse_missing, test_schemas};
use crate::tee::{Own, Owner, Schemas};
use std::sync::Arc;

const LOST_REMEDY: &str = "none is needed: `run` publishes the users of its tenants again; find out which program deletes topics or whether \
                           brokers lost records";
const RESTART_REMEDY: &str = "none is needed: `run` publishes the users of every tenant again; find out which program changes the positions topic";

/// `state`: what the state has recorded. Without it, the topics are not compared.
pub(super) async fn findings(config: &Config, kafka: &Kafka, state: Option<&Snapshot>) -> Vec<Finding> {
    let tenants = config.tenants.iter().map(|tenant| &tenant.id);
    let topics = match Topics::new(&kafka.topic, &config.users.table, tenants) {
        Ok(topics) => Arc::new(topics),
        Err(error) => {
            return vec![Finding::error(Subject::Kafka, TopicTrouble::Topic, error.to_string(), TOPICS_REMEDY)];
        }
    };
    let settings = kafka.clone();
    let existing = match blocking(move || existing_topics(&settings)).await {
        Ok(existing) => existing,
        Err(failure) => return vec![finding(failure)],
    };
    let mut needed = topics.distinct();
    needed.extend(kafka.own_topics());
    let missing: Vec<&str> = needed.into_iter().filter(|topic| !existing.contains(*topic)).collect();
    let mut findings = Vec::new();
    findings.extend(refuse_missing(kafka, &missing).await.err().map(finding));
    if let (Some(registry), Some(schemas)) = (&kafka.registry, Schemas::new(kafka)) {
        findings.extend(test_schemas(registry, &schemas, &topics.distinct()).await.err().map(finding));
    }
    if let Some(state) = state {
        findings.extend(ownership(config, kafka, topics, state).await);
    }
    findings
}

/// What the topics show about other programs.
async fn ownership(config: &Config, kafka: &Kafka, topics: Arc<Topics>, state: &Snapshot) -> Vec<Finding> {
    // Before the first start there is no key, so that every signature is another installation's.
    let key = state.key.clone().or_else(|| CheckpointKey::new(&[0; 32]));
    let (Some(key), Some(system)) = (key, system(config).await) else { return Vec::new() };
    let owner = Owner::new(&kafka.slot, &key);
    let published = state.tee.as_ref().and_then(|tee| tee.published.clone());
    let (settings, its) = (kafka.clone(), published.clone());
    let found = blocking(move || {
        let topics = topics.distinct();
        look(&settings, &Own { owner: &owner, system: &system, published: its.as_ref(), topics: &topics })
    });
    match found.await {
        Ok(found) => losses(&found, published.as_ref()),
        Err(failure) => vec![finding(failure)],
    }
}

/// The source's system identifier; `None` if it cannot be read, which another finding reports.
async fn system(config: &Config) -> Option<String> {
    let mut connection = ReplicationConnection::connect(&config.source.url).await.ok()?;
    Some(identify_system(&mut connection).await.ok()?.system_identifier)
}

/// What `run` will publish again, and why.
fn losses(found: &Found, published: Option<&TeePublished>) -> Vec<Finding> {
    let warning = |what: String, code: Code, remedy| {
        Finding::warning(Subject::Kafka, code, format!("{what} ({})", code.0), remedy)
    };
    if let Some(why) = found.known.restart.filter(|_| published.is_some()) {
        return vec![warning(why.to_string(), why.into(), RESTART_REMEDY)];
    }
    let lost = found.lost.iter().map(|topic| {
        let what = format!("topic {topic} was deleted, created again, or lost its last records");
        warning(what, TopicTrouble::Lost.into(), LOST_REMEDY)
    });
    let altered = found.known.altered.iter().map(|tenant| {
        let what = format!("another program wrote the record of tenant {tenant} in the positions topic");
        warning(what, TeeRestart::PositionAltered.into(), RESTART_REMEDY)
    });
    lost.chain(altered).collect()
}

fn finding(Failure { what, code, remedy, .. }: Failure) -> Finding {
    let what = match code {
        Some(code) => format!("{what} ({})", code.code()),
        None => what,
    };
    let failed = code;
    let code: Code = code.map_or(StatusFinding::Kafka.into(), Code::from);
    let remedy = remedy.unwrap_or(match failed {
        Some(TopicTrouble::Registry) => "check that the schema registry is running and reachable from this machine",
        _ => "check that the brokers are running and reachable from this machine",
    });
    Finding::error(Subject::Kafka, code, what, remedy)
}

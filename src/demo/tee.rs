//! Compares Kafka's topics with the source at the end of the demo.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use crate::config::Kafka;
use crate::model::Deletes;
use crate::tee::kafka::{Failure, Reader};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Time limit for the first snapshot in Kafka. Later changes arrive within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until the topics hold as many users as the source; returns the number.
pub(super) async fn until_equal(stage: &Stage, kafka: &Kafka) -> Result<i64, DemoError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let client = stage.auth().await?;
        let users: i64 = client.query_one("SELECT count(*) FROM auth.users", &[]).await?.try_get(0)?;
        let difference = match count_users(kafka).await {
            Ok(count) if count == users => return Ok(users),
            Ok(count) => format!("Kafka has {count} users, the source has {users}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(DemoError::Different(difference));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn count_users(kafka: &Kafka) -> Result<i64, Failure> {
    let kafka = kafka.clone();
    let counted = tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let mut users = HashSet::new();
        for tenant in TENANTS {
            reader.users(&kafka.topic.replace("{tenant}", tenant), Deletes::Soft, |key, exists| {
                let key = (tenant, key.to_owned());
                if exists {
                    users.insert(key);
                } else {
                    users.remove(&key);
                }
            })?;
        }
        Ok(users.len() as i64)
    });
    counted.await.unwrap_or_else(|error| Err(Failure::plain(format!("reading the topics failed: {error}"))))
}

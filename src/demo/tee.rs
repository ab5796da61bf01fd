//! What Kafka holds at the end of the demo.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use crate::config::Kafka;
use crate::model::Deletes;
use crate::tee::kafka::{Failure, Reader};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What was committed last is in Kafka within milliseconds; the first snapshot may still be on its way.
const EQUAL_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until the topics hold as many living users as the source has; gives how many.
pub(super) async fn until_equal(stage: &Stage, kafka: &Kafka) -> Result<i64, DemoError> {
    let deadline = Instant::now() + EQUAL_WITHIN;
    loop {
        let client = stage.auth().await?;
        let users: i64 = client.query_one("SELECT count(*) FROM auth.users", &[]).await?.get(0);
        match held(kafka).await {
            Ok(held) if held == users => return Ok(users),
            Err(error) if Instant::now() > deadline => return Err(DemoError::Different(error.to_string())),
            Ok(held) if Instant::now() > deadline => {
                let message = format!("Kafka holds {held} users, the source has {users}");
                return Err(DemoError::Different(message));
            }
            Ok(_) | Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

async fn held(kafka: &Kafka) -> Result<i64, Failure> {
    let kafka = kafka.clone();
    let counted = tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let mut held = HashSet::new();
        for tenant in TENANTS {
            reader.users(&kafka.topic.replace("{tenant}", tenant), Deletes::Soft, |key, is_there| {
                let key = (tenant, key.to_owned());
                match is_there {
                    true => held.insert(key),
                    false => held.remove(&key),
                };
            })?;
        }
        Ok(held.len() as i64)
    });
    counted.await.unwrap_or_else(|error| Err(Failure::plain(format!("the look was broken off: {error}"))))
}

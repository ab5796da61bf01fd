//! With `kafka.group`: whether processes of `users-sync apply` write what this process publishes. Without them targets stand still,
//! while everything else looks healthy.

use crate::model::SourceTrouble;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const INTERVAL: Duration = Duration::from_secs(5);

/// Looks at the rows of the partitions until the session drains.
pub(crate) async fn watch_workers(context: &SessionContext) -> Result<(), ServiceError> {
    let mut timer = interval(INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = context.drain.cancelled() => return Ok(()),
        }
        let code = SourceTrouble::NoWorker;
        // Another topic has other partitions.
        let topic = context.config.shared_topic().unwrap_or_default();
        let Some(text) = finding(&context.state.partitions(&topic).await?) else {
            if context.findings.clear(code) {
                tracing::info!("every partition has a users-sync apply process again");
            }
            continue;
        };
        if context.findings.note(code, text.clone()) {
            tracing::error!(
                reason = text,
                reason_code = code.code(),
                "changes are published but not written to targets"
            );
        }
    }
}

/// What is wrong; `None` if each partition that was ever applied has a process. The partitions come with whether they have one.
fn finding(partitions: &[(String, bool)]) -> Option<String> {
    if partitions.is_empty() {
        return Some("no process of users-sync apply has applied a partition yet".to_owned());
    }
    let without: Vec<&str> = partitions.iter().filter(|(_, held)| !held).map(|(name, _)| name.as_str()).collect();
    match without[..] {
        [] => None,
        _ if without.len() == partitions.len() => Some("no users-sync apply process is running".to_owned()),
        [first, ..] => Some(format!(
            "{} of {} partitions have no process of users-sync apply: {first}{}",
            without.len(),
            partitions.len(),
            if without.len() > 1 { ", ..." } else { "" }
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_a_process_is_named() {
        let found = |held: &[bool]| {
            let partitions: Vec<(String, bool)> =
                held.iter().enumerate().map(|(number, held)| (format!("s/t/{number}"), *held)).collect();
            finding(&partitions)
        };
        assert_eq!(found(&[]).unwrap(), "no process of users-sync apply has applied a partition yet");
        assert_eq!(found(&[true, true]), None);
        assert_eq!(found(&[false, false]).unwrap(), "no users-sync apply process is running");
        let some = "1 of 3 partitions have no process of users-sync apply: s/t/1";
        assert_eq!(found(&[true, false, true]).unwrap(), some);
        let some = "2 of 3 partitions have no process of users-sync apply: s/t/0, ...";
        assert_eq!(found(&[false, false, true]).unwrap(), some);
    }
}

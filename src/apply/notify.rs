//! `notify: true`: a transaction notifies sessions that LISTEN users_sync of the users that it wrote. Pure.

/// A transaction that writes more users notifies without ids. The server keeps notifications in memory, and
/// in a queue shared by all databases, until the slowest listener has read them.
pub(crate) const MAX_NOTIFIED_USERS: usize = 10_000;

/// Notifies listeners that users were written, without their ids.
pub(crate) const NOTIFY_WITHOUT_ID: &str = "SELECT pg_notify('users_sync', '')";

/// Removes notifications that every listener has read (`asyncQueueAdvanceTail`). Otherwise the server does
/// this only when notifications are added, which a full queue prevents.
pub(super) const ADVANCE_QUEUE: &str = "SELECT pg_notification_queue_usage()";

/// What a statement sends to listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Notify {
    /// Nothing; the statement has no part for it.
    Off,
    /// The id of each user that was written.
    EachUser,
    /// One notification without an id if any user was written.
    WithoutId,
}

impl Notify {
    /// The output column that notifies of the rows returned by these parts. A payload must be shorter than
    /// 8000 bytes (manual: NOTIFY).
    pub(super) fn of(self, written: &[&str]) -> String {
        match self {
            Notify::Off => String::new(),
            Notify::EachUser => {
                let ids = written.iter().map(|part| format!("SELECT id FROM {part}")).collect::<Vec<_>>();
                format!(
                    ", (SELECT count(pg_notify('users_sync', id)) FROM ({}) AS written WHERE octet_length(id) < 8000)",
                    ids.join(" UNION ALL ")
                )
            }
            Notify::WithoutId => {
                let any = written.iter().map(|part| format!("EXISTS (SELECT FROM {part})")).collect::<Vec<_>>();
                format!(", (SELECT count(pg_notify('users_sync', '')) WHERE {})", any.join(" OR "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_part_of_the_statement_and_cost_nothing_if_off() {
        assert_eq!(Notify::Off.of(&["updated"]), String::new());
        let each = Notify::EachUser.of(&["updated", "inserted"]);
        assert!(each.contains("(SELECT id FROM updated UNION ALL SELECT id FROM inserted)"), "{each}");
        let many = Notify::WithoutId.of(&["deleted", "patched"]);
        assert!(many.ends_with("WHERE EXISTS (SELECT FROM deleted) OR EXISTS (SELECT FROM patched))"), "{many}");
    }
}

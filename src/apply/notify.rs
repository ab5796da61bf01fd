//! `notify: true`: sessions at a target that LISTEN users_sync learn who was written, with the transaction that wrote it. Pure.

/// A transaction that writes more users than this does not name them: the server keeps what it is told in memory, and in a
/// queue that all databases share, until the slowest listener has read it.
pub const MAX_NOTIFIED_USERS: usize = 10_000;

/// Tells listeners that many were written, or that who they are is not known.
pub const NOTIFY_WITHOUT_ID: &str = "SELECT pg_notify('users_sync', '')";

/// Lets go of what every listener has read. A server does so as notifications are added, and so never again once the queue is
/// full (`asyncQueueAdvanceTail`, which this function calls, too).
pub(super) const ADVANCE_QUEUE: &str = "SELECT pg_notification_queue_usage()";

/// Who is told of what a statement writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notify {
    /// Nobody: the statement has no part for it.
    Off,
    /// Listeners, of each user that was really written.
    EachUser,
    /// Listeners, of there being any.
    WithoutId,
}

impl Notify {
    /// What the parts of the statement return: those that change a row of `u`, and those that make one.
    pub(super) fn returning(self) -> (&'static str, &'static str) {
        match self {
            Notify::Off => ("", ""),
            Notify::EachUser | Notify::WithoutId => (" RETURNING u.id", " RETURNING id"),
        }
    }

    /// A column of the statement's answer, from the names of those parts. A payload has to be shorter than 8000 bytes
    /// (manual: NOTIFY).
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
        assert_eq!((Notify::Off.of(&["updated"]), Notify::Off.returning()), (String::new(), ("", "")));
        let each = Notify::EachUser.of(&["updated", "inserted"]);
        assert!(each.contains("(SELECT id FROM updated UNION ALL SELECT id FROM inserted)"), "{each}");
        let many = Notify::WithoutId.of(&["deleted", "patched"]);
        assert!(many.ends_with("WHERE EXISTS (SELECT FROM deleted) OR EXISTS (SELECT FROM patched))"), "{many}");
    }
}

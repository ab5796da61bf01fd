//! The reasons behind a tenant's state and a new history, each with a stable code and its text.
//!
//! Behaviour, the state's tables, metrics and the API depend on the codes. The texts are for people and may be reworded;
//! a code never changes and is never used again for something else. Each code has a page in docs/errors. Pure.

use std::fmt;

/// Declares an enum together with the code, the text and the page of each variant.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// Every variant, in the order of the table.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The stable code: snake_case, unique among all reasons.
            pub fn code(self) -> &'static str {
                match self { $($name::$variant => $code,)* }
            }

            /// The sentence for people.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The page of docs/errors: cause, how to confirm it, and remedy.
            pub(crate) fn page(self) -> &'static str {
                match self { $($name::$variant => include_str!(concat!("../../docs/errors/", $code, ".md")),)* }
            }

            /// The variant of a code; `None` for a code of a newer version.
            pub fn parse(code: &str) -> Option<$name> {
                match code {
                    $($code => Some($name::$variant),)*
                    _ => None,
                }
            }
        }

        impl From<$name> for Code {
            fn from(reason: $name) -> Code {
                Code(reason.code())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

reasons! {
    /// Why a tenant takes a snapshot.
    ResyncReason {
        NewTarget = "new_target", "its target is new";
        HandedOver = "handed_over", "its target was handed over";
        TableMissing = "table_missing", "users_sync is missing in its target";
        TableReplaced = "table_replaced", "users_sync was truncated, rewritten or replaced in its target";
        NewGeneration = "new_generation", "the source's history changed";
        MappingChanged = "mapping_changed", "the mapping has changed";
        TargetRestored = "target_restored", "its target was restored to an older point";
        Unfinished = "unfinished", "its last snapshot was not finished, or it was parked";
        SourceTruncated = "source_truncated", "the table was truncated at the source";
        SourceAltered = "source_altered", "the table was altered at the source";
        UnattributedDelete = "unattributed_delete", "a delete at the source could not be attributed to a tenant";
        Requested = "resync_requested", "a resync was requested";
        PublishedAgain = "published_again", "the Kafka output has published its users again";
        NoTargetId = "no_target_id", "the state has no id for its target";
        TransactionLost = "transaction_lost", "its connection broke inside a transaction too large to keep";
    }
}

reasons! {
    /// Why a tenant is parked. The codes are also the values of the label `reason` of `users_sync_parked_tenants`.
    ParkCause {
        Login = "login", "its target refuses the connection: TLS, login, or no such database";
        Rights = "rights", "the role lacks a privilege in its target, or the database is read-only";
        Altered = "altered", "the tables of users-sync in its target were altered";
        Refuses = "refuses", "its target refuses too many rows";
        Deletes = "deletes", "the snapshot would delete more users than limits.max_deletes";
        Foreign = "foreign", "its target belongs to another tenant or installation";
        Memory = "memory", "its queued changes exceed limits.tenant_memory or limits.memory";
        Log = "log", "it retained more of the source's WAL than limits.source_wal";
        Away = "away", "its target was unavailable for longer than limits.park_after";
        TooSlow = "row_too_slow", "its target does not write even one row within a time limit";
        NotConfigured = "not_configured", "it was removed from the configuration";
        Internal = "internal_error", "internal error, see the log";
        Other = "other", "its target reports an error that none of these codes covers";
    }
}

reasons! {
    /// Why a tenant's work is tried again after a pause.
    RetryCause {
        Unreachable = "target_unreachable", "its target cannot be reached";
        NoResources = "target_no_resources", "its target is out of disk space, memory or connections";
        LoginRefused = "target_login", "its target refuses the login";
        NoPassword = "target_no_password", "the password for its target cannot be read";
        NoAnswer = "target_no_answer", "its target does not answer";
        TablesLocked = "target_locked", "another session locks its tables";
        TargetError = "target_error", "its target reports a transient error";
        TooSlow = "target_too_slow", "a time limit or another session ended a statement in its target";
        CheckpointMoved = "checkpoint_moved", "its checkpoint is not at the expected position";
        RowRefused = "row_refused", "its target refuses a row of the snapshot";
        SnapshotFailed = "snapshot_failed", "its snapshot could not be taken";
        ScanAborted = "scan_aborted", "its snapshot was aborted for a session that waits for a lock at the source";
        SpoolFull = "spool_full", "it left the snapshot as the slowest tenant because the spool is full";
        SourceReadFailed = "source_read_failed", "its users could not be read from the source";
    }
}

reasons! {
    /// Why positions of the source do not mean any more what they meant, so that a new generation begins.
    HistoryBreak {
        NothingReplicated = "nothing_replicated", "nothing was ever replicated from it";
        NewSlot = "new_slot", "the slot is new";
        MarkedBroken = "marked_broken", "its earlier history is incomplete (see the log)";
        Republished = "republished",
            "its publication was altered: changes made in the meantime may not have been sent";
        OtherServer = "other_server", "the source is a different server";
        Promoted = "promoted", "the source was promoted: its timeline changed";
        SlotMoved = "slot_moved", "another client moved the slot forward";
        SourceRestored = "source_restored", "the source was restored to an older point";
        UnknownWriter = "unknown_writer", "the target was written by a process that the state does not know";
        LogLost = "log_lost", "the target holds changes that the source's WAL lost";
    }
}

reasons! {
    /// How the replication slot was lost.
    SlotLoss {
        Gone = "slot_gone", "no longer exists";
        Invalidated = "slot_invalidated", "was invalidated: the WAL it needs was removed";
        OlderThanPublication = "slot_older_than_publication", "is older than its publication";
        OlderThanPartitions = "slot_older_than_partitions",
            "is older than a partition that was attached or detached, which needs a new slot before PostgreSQL 15";
    }
}

reasons! {
    /// Why the Kafka output cannot resume, so that its slot is created again and every tenant takes a snapshot.
    TeeRestart {
        NoPosition = "tee_no_position", "the positions topic has no position of this slot";
        OtherServer = "tee_other_server", "the source is a different server";
        Promoted = "tee_promoted", "the source was promoted: its timeline changed";
        NewGeneration = "tee_new_generation", "a new generation has started: everything is resynced";
        SlotAhead = "tee_slot_ahead", "its slot is ahead of its topics";
        SourceRestored = "tee_source_restored", "the source was restored to an older point";
        SlotDropped = "tee_slot_dropped", "its slot was dropped";
        SlotInvalidated = "tee_slot_invalidated", "its slot was invalidated: the WAL it needs was removed";
        PositionAltered = "tee_position_altered", "another program wrote its record in the positions topic";
        PositionOlder = "tee_position_older", "the positions topic went back to an older record";
    }
}

reasons! {
    /// What is wrong with the topics of the Kafka output.
    TopicTrouble {
        Topic = "kafka_topic", "a topic is missing or its name cannot be used";
        Foreign = "tee_foreign", "another installation uses its topics";
        Lost = "tee_topic_lost", "a topic was deleted, created again, or lost its last records";
        Registry = "kafka_registry", "the schema registry cannot be reached, or does not accept a schema";
    }
}

reasons! {
    /// What is wrong at the source, the state or the table of tenants: why no session works (the state's `trouble_code`), or what
    /// one that works has found (the state's `findings`).
    SourceTrouble {
        Unreachable = "source_unreachable", "the source cannot be reached";
        Login = "source_login", "the source refuses the connection: TLS, login, or no such database";
        Rights = "source_rights", "the role lacks a privilege at the source";
        ConnectionLost = "source_connection_lost", "the connection to the source broke";
        QueryFailed = "source_query_failed", "a query on the source failed";
        Standby = "source_is_standby", "the source is a standby";
        Mapping = "mapping_unfit", "the mapping does not fit the source's tables";
        Unready = "source_unready", "the source does not send what users-sync needs";
        ReplicaIdentity = "replica_identity", "the replica identity lacks the user's id or tenant";
        StoreUpgraded = "store_upgraded", "the auth store has newer tables than those that are replicated";
        PublicationMissing = "publication_missing", "the publication does not exist";
        SlotForeign = "slot_foreign", "the slot belongs to another program or database";
        SlotLost = "slot_lost", "the slot was lost, and on_slot_loss is stop";
        Protocol = "source_protocol", "the source sent something that cannot be decoded";
        State = "state_unavailable", "the state cannot be read or written";
        TenantsUnread = "tenants_unread", "the table of tenants cannot be read";
        TenantUnusable = "tenant_unusable", "rows of the table of tenants cannot be used";
        Superseded = "superseded", "another process took over";
        NoWorker = "no_worker", "a partition has no process of `users-sync apply`";
        KafkaUnread = "kafka_unread", "the users' topic in Kafka cannot be read";
        StartsOver = "session_restarts", "a new session has to begin";
    }
}

reasons! {
    /// What a verdict can report besides the reasons of tenants, slots and the source.
    StatusFinding {
        NotRunning = "not_running", "no process replicates";
        Beginning = "beginning", "a process runs that does not replicate yet";
        NotStarted = "tenant_not_started", "no running process knows this tenant yet";
        NothingReplicates = "nothing_replicates", "every tenant is parked";
        WithoutUsers = "tenant_without_users", "no user of the source has its key";
        NoneFollows = "all_joining", "no tenant follows yet: they take a snapshot";
        Rejects = "rejected_users", "its target rejects users";
        Paused = "tenant_paused", "it is paused";
        SlotWaits = "slot_waits", "the slot cannot be created while a transaction is open at the source";
        SlotIdle = "slot_inactive", "no process reads the slot";
        SourceUnread = "source_not_read", "the end of the source's WAL cannot be read";
        Kafka = "kafka_output", "the Kafka output does not publish";
        LeftOut = "kafka_left_out", "the Kafka output leaves out users";
    }
}

reasons! {
    /// What `check` can find besides the reasons above.
    CheckFinding {
        WalLevel = "wal_level", "wal_level is not logical";
        ColumnLists = "column_lists", "the column list that source.publish asks for cannot be used";
        ReplicationRight = "replication_right", "the role lacks the REPLICATION privilege";
        WalUnbounded = "wal_unbounded", "max_slot_wal_keep_size does not bound the WAL of a slot as it should";
        TableUnknown = "table_unknown", "the table of the users does not exist";
        RowSecurity = "row_security", "row security would hide rows";
        Columns = "source_columns", "what becomes of each column";
        CastColumns = "cast_columns", "columns have a type with a cast to json";
        SlotMissing = "slot_missing", "the slot does not exist yet";
        SlotInUse = "slot_in_use", "a process of the server uses the slot";
        SlotsUsedUp = "slots_used_up", "too few replication slots or WAL senders are free";
        PluginNotListed = "plugin_not_listed", "output_plugin_libraries does not list pgoutput";
        SynchronousStandby = "synchronous_standby", "the slot would count as a synchronous standby";
        Pooler = "connection_pooler", "source.url leads to a connection pooler";
        IdsNotUnique = "ids_not_unique", "two rows can have the same id";
        WithoutTenant = "users_without_tenant", "users of the source belong to no tenant";
        NotCounted = "users_not_counted", "the users of the tenants were not counted";
        StateRights = "state_rights", "the role cannot write the state";
        Unverified = "server_not_verified", "the server is not verified";
        PlainText = "plain_text", "the connection is not encrypted";
        SharedRole = "shared_role", "several databases share a role";
        PresetFits = "preset_fits", "the tables are those of a preset";
        SpoolUnusable = "spool_unusable", "no file can be created in spool.directory";
        ListenInUse = "listen_in_use", "admin.listen cannot be bound";
        SmallMemory = "small_memory", "a limit of memory is too small to be meant";
        FillFactor = "table_fillfactor", "the pages of users_sync keep no space for updates";
        NoAnswer = "no_answer", "a lookup got no answer in time";
        NotInspected = "not_inspected", "the database cannot be inspected";
    }
}

reasons! {
    /// Why a command failed, besides the reasons above.
    CommandFault {
        Configuration = "invalid_configuration", "the configuration cannot be used";
        Failed = "command_failed", "the command could not do what was asked for";
    }
}

/// A code of any of these, each of which has a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) &'static str);

/// What the state holds as `reason_code` of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It takes a snapshot.
    Resync(ResyncReason),
    /// It is parked.
    Park(ParkCause),
    /// It is tried again.
    Retry(RetryCause),
}

impl Reason {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Resync(reason) => reason.code(),
            Reason::Park(cause) => cause.code(),
            Reason::Retry(cause) => cause.code(),
        }
    }

    /// The reason of a code; `None` for a code of a newer version.
    pub fn parse(code: &str) -> Option<Reason> {
        let resync = || ResyncReason::parse(code).map(Reason::Resync);
        let park = || ParkCause::parse(code).map(Reason::Park);
        let retry = || RetryCause::parse(code).map(Reason::Retry);
        resync().or_else(park).or_else(retry)
    }
}

/// Why the reading side interrupts a tenant: its work starts over, or it is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartSignal {
    /// It held up the other tenants, or outgrew its budget.
    OverBudget,
    /// It held back more of the source's log than it may.
    HoldsLog,
    /// The source's table was truncated.
    Truncated,
    /// The source's table was altered so that rows look different although they did not change.
    Altered,
    /// A delete or a move could not be attributed to a user.
    Unattributed,
    /// A resync was requested.
    Requested,
    /// The Kafka output has published the tenant's users again.
    PublishedAgain,
}

impl RestartSignal {
    /// What the tenant's state says after this signal.
    pub fn reason(self) -> Reason {
        match self {
            RestartSignal::OverBudget => Reason::Park(ParkCause::Memory),
            RestartSignal::HoldsLog => Reason::Park(ParkCause::Log),
            RestartSignal::Truncated => Reason::Resync(ResyncReason::SourceTruncated),
            RestartSignal::Altered => Reason::Resync(ResyncReason::SourceAltered),
            RestartSignal::Unattributed => Reason::Resync(ResyncReason::UnattributedDelete),
            RestartSignal::Requested => Reason::Resync(ResyncReason::Requested),
            RestartSignal::PublishedAgain => Reason::Resync(ResyncReason::PublishedAgain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Code and text of every reason.
    fn table() -> Vec<(&'static str, &'static str)> {
        let resync = ResyncReason::ALL.iter().map(|reason| (reason.code(), reason.text()));
        let park = ParkCause::ALL.iter().map(|cause| (cause.code(), cause.text()));
        let retry = RetryCause::ALL.iter().map(|cause| (cause.code(), cause.text()));
        let history = HistoryBreak::ALL.iter().map(|reason| (reason.code(), reason.text()));
        let slot = SlotLoss::ALL.iter().map(|loss| (loss.code(), loss.text()));
        let tee = TeeRestart::ALL.iter().map(|reason| (reason.code(), reason.text()));
        let topics = TopicTrouble::ALL.iter().map(|trouble| (trouble.code(), trouble.text()));
        let trouble = SourceTrouble::ALL.iter().map(|trouble| (trouble.code(), trouble.text()));
        let check = CheckFinding::ALL.iter().map(|finding| (finding.code(), finding.text()));
        let command = CommandFault::ALL.iter().map(|fault| (fault.code(), fault.text()));
        let found = StatusFinding::ALL.iter().map(|finding| (finding.code(), finding.text()));
        resync
            .chain(park)
            .chain(retry)
            .chain(history)
            .chain(slot)
            .chain(tee)
            .chain(topics)
            .chain(trouble)
            .chain(found)
            .chain(check)
            .chain(command)
            .collect()
    }

    #[test]
    fn codes_are_unique_and_in_snake_case_and_every_reason_has_a_text() {
        let table = table();
        let codes: BTreeSet<&str> = table.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes.len(), table.len());
        for (code, text) in table {
            assert!(code.starts_with(|c: char| c.is_ascii_lowercase()), "{code}");
            assert!(code.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !code.contains("__"), "{code}");
            assert!(!text.is_empty(), "{code}");
        }
    }

    /// The state of an installation and the rules of its alerts hold these codes.
    #[test]
    fn stored_codes_do_not_change() {
        let codes = |codes: Vec<&'static str>| codes.join(" ");
        assert_eq!(
            codes(ResyncReason::ALL.iter().map(|reason| reason.code()).collect()),
            "new_target handed_over table_missing table_replaced new_generation mapping_changed target_restored \
             unfinished source_truncated source_altered unattributed_delete resync_requested published_again no_target_id \
             transaction_lost"
        );
        assert_eq!(
            codes(ParkCause::ALL.iter().map(|cause| cause.code()).collect()),
            "login rights altered refuses deletes foreign memory log away row_too_slow not_configured \
             internal_error other"
        );
        assert_eq!(
            codes(RetryCause::ALL.iter().map(|cause| cause.code()).collect()),
            "target_unreachable target_no_resources target_login target_no_password target_no_answer target_locked target_error target_too_slow checkpoint_moved \
             row_refused snapshot_failed scan_aborted spool_full source_read_failed"
        );
    }

    #[test]
    fn a_stored_code_leads_back_to_its_reason_and_an_unknown_one_to_none() {
        let resync = ResyncReason::ALL.iter().copied().map(Reason::Resync);
        let park = ParkCause::ALL.iter().copied().map(Reason::Park);
        let retry = RetryCause::ALL.iter().copied().map(Reason::Retry);
        for reason in resync.chain(park).chain(retry) {
            assert_eq!(Reason::parse(reason.code()), Some(reason));
        }
        for loss in SlotLoss::ALL {
            assert_eq!(SlotLoss::parse(loss.code()), Some(*loss));
        }
        for reason in TeeRestart::ALL {
            assert_eq!(TeeRestart::parse(reason.code()), Some(*reason));
        }
        for trouble in TopicTrouble::ALL {
            assert_eq!(TopicTrouble::parse(trouble.code()), Some(*trouble));
        }
        for reason in HistoryBreak::ALL {
            assert_eq!(HistoryBreak::parse(reason.code()), Some(*reason));
        }
        for unknown in ["", "a_code_of_a_newer_version", "Login", "it was removed from the configuration"] {
            assert_eq!(Reason::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn every_signal_parks_or_resyncs() {
        let signals = [
            (RestartSignal::OverBudget, "memory"),
            (RestartSignal::HoldsLog, "log"),
            (RestartSignal::Truncated, "source_truncated"),
            (RestartSignal::Altered, "source_altered"),
            (RestartSignal::Unattributed, "unattributed_delete"),
            (RestartSignal::Requested, "resync_requested"),
            (RestartSignal::PublishedAgain, "published_again"),
        ];
        for (signal, code) in signals {
            assert_eq!(signal.reason().code(), code);
        }
    }
}

//! The one classifier of SQLSTATE codes: what a code means for us, and how much of its error may be shown.
//! Pure.
//!
//! Source: manual, appendix A "PostgreSQL Error Codes" (src/backend/utils/errcodes.txt), PostgreSQL 14 to 19.
//! Total: a code is any text that a server sends, of any length.

use SqlStateClass::*;

/// What an SQLSTATE means for the replicator. Every consumer matches on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqlStateClass {
    /// The server refused the row: a data exception, a violated constraint, a view's check option, or a
    /// trigger's RAISE.
    RowRefused,
    /// Another attempt may succeed: a lost connection, a deadlock, a canceled statement, a restart, an I/O
    /// error.
    Transient,
    /// `lock_not_available`: NOWAIT or `lock_timeout`.
    LockNotAvailable,
    /// The server is short of memory or disk space.
    InsufficientResources,
    /// `too_many_connections`: of the server, the database or the role.
    TooManyConnections,
    /// `configuration_limit_exceeded`: an administrator has to raise a limit, for example
    /// `max_replication_slots`.
    ConfigurationLimit,
    /// A built-in limit: size of an index row, nesting depth, number of arguments, the NOTIFY queue.
    ProgramLimit,
    /// `read_only_sql_transaction`: a standby, or a database set to read-only.
    ReadOnly,
    /// `insufficient_privilege`.
    Privilege,
    /// `invalid_password`.
    InvalidPassword,
    /// pg_hba.conf has no matching line, or the role does not exist or may not log in.
    Login,
    /// The database does not exist.
    MissingDatabase,
    /// The schema does not exist.
    MissingSchema,
    /// `undefined_table`.
    MissingTable,
    /// `undefined_column`.
    MissingColumn,
    /// Another fault of the statement: syntax, names or types.
    Statement,
    /// A function in SQL, C, Perl or Python failed. Its message is the function's own.
    RoutineFailure,
    /// A class of PostgreSQL without a treatment of its own.
    Other,
    /// Not a class of PostgreSQL: a user-defined function raised it.
    ApplicationDefined,
}

/// How much of an error may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disclosure {
    /// The message: the server's own text about a database, a role or a statement.
    Message,
    /// Only table, column and constraint, if [`names_place`]: the message may repeat a row's values.
    Place,
    /// Only the code: user-defined code may have set every other field (manual: PL/pgSQL, "RAISE").
    Code,
}

impl SqlStateClass {
    /// Classifies a code: codes with a treatment of their own first, then the class (the first two
    /// characters). The class also decides for codes that PostgreSQL does not list.
    pub(crate) fn of(code: &str) -> SqlStateClass {
        match code {
            "25006" => ReadOnly,
            // A prepared statement is not in this session, or another client of the pooler left its name there.
            "26000" | "42P05" => Transient,
            "28P01" => InvalidPassword,
            "42501" => Privilege,
            "42703" => MissingColumn,
            "42P01" => MissingTable,
            "53300" => TooManyConnections,
            "53400" => ConfigurationLimit,
            "55P03" => LockNotAvailable,
            _ => find_class(code).map_or(ApplicationDefined, |(class, _)| class),
        }
    }

    /// Classifies the server's error; `None` if the server sent none, for example after a lost connection.
    pub(crate) fn of_error(error: &tokio_postgres::Error) -> Option<SqlStateClass> {
        error.code().map(|code| SqlStateClass::of(code.code()))
    }
}

impl Disclosure {
    /// Decides by the code and by the server's function that reported the error (field `R`), if known: RAISE
    /// can use any code.
    pub(crate) fn of(code: &str, routine: Option<&str>) -> Disclosure {
        if !is_listed(code) || is_raised(routine) {
            return Disclosure::Code;
        }
        match SqlStateClass::of(code) {
            RowRefused if code.starts_with(PLPGSQL_CLASS) => Disclosure::Code,
            RowRefused | ProgramLimit => Disclosure::Place,
            RoutineFailure | ApplicationDefined => Disclosure::Code,
            Transient
            | LockNotAvailable
            | InsufficientResources
            | TooManyConnections
            | ConfigurationLimit
            | ReadOnly
            | Privilege
            | InvalidPassword
            | Login
            | MissingDatabase
            | MissingSchema
            | MissingTable
            | MissingColumn
            | Statement
            | Other => Disclosure::Message,
        }
    }
}

/// The class of RAISE without a code, and of ASSERT.
const PLPGSQL_CLASS: &str = "P0";

/// The functions of pl_exec.c, plperl.c and plpy_*.c that report errors raised by user-defined code.
const USER_CODE_ROUTINES: [&str; 4] = ["exec_stmt_raise", "do_util_elog", "PLy_elog_impl", "PLy_output"];

/// Whether RAISE or its like reported the error.
pub(crate) fn is_raised(routine: Option<&str>) -> bool {
    routine.is_some_and(|routine| USER_CODE_ROUTINES.contains(&routine))
}

/// Whether the queue of notifications is full. The code is that of any program limit (async.c).
pub(crate) fn is_full_notify_queue(code: &str, routine: Option<&str>) -> bool {
    code == "54000" && matches!(routine, Some("PreCommit_Notify" | "asyncQueueAddEntries"))
}

/// Whether a time limit, or another session, ended the statement or the connection: `query_canceled`,
/// `idle_in_transaction_session_timeout`, `transaction_timeout`.
pub(crate) fn is_time_limit(code: &str) -> bool {
    matches!(code, "57014" | "25P03" | "25P04")
}

/// Whether the server itself set the fields table, column and constraint of an error. RAISE can set them, too.
pub(crate) fn names_place(routine: Option<&str>) -> bool {
    routine.is_some_and(|routine| PLACE_ROUTINES.contains(&routine))
}

/// The functions that report a violated constraint or a value that is too large for an index: nbtinsert.c, nbtutils.c,
/// execIndexing.c, execMain.c, ri_triggers.c, execExprInterp.c, domains.c.
const PLACE_ROUTINES: [&str; 10] = [
    "_bt_check_unique",
    "_bt_check_third_page",
    "check_exclusion_or_unique_constraint",
    "ExecConstraints",
    "ReportNotNullViolationError",
    "ExecPartitionCheckEmitError",
    "ri_ReportViolation",
    "ExecEvalConstraintCheck",
    "ExecEvalConstraintNotNull",
    "domain_check_input",
];

/// Whether PostgreSQL lists the code. Other codes come from user-defined functions.
fn is_listed(code: &str) -> bool {
    let Some((_, codes)) = find_class(code) else { return false };
    codes.split(' ').any(|listed| code.get(2..) == Some(listed))
}

fn find_class(code: &str) -> Option<(SqlStateClass, &'static str)> {
    let prefix = code.get(..2)?;
    CLASSES.iter().find(|(listed, ..)| *listed == prefix).map(|(_, class, codes)| (*class, *codes))
}

/// PostgreSQL's list: the class, its meaning, and the last three characters of each of its codes.
const CLASSES: [(&str, SqlStateClass, &str); 44] = [
    ("00", Other, "000"),
    ("01", Other, "000 003 004 006 007 008 00C P01"),
    ("02", Other, "000 001"),
    ("03", Other, "000"),
    ("08", Transient, "000 001 003 004 006 007 P01"),
    ("09", Other, "000"),
    ("0A", Other, "000"),
    ("0B", Other, "000"),
    ("0F", Other, "000 001"),
    ("0L", Other, "000 P01"),
    ("0P", Other, "000"),
    ("0Z", Other, "000 002"),
    ("10", Other, "608"),
    ("20", Other, "000"),
    ("21", Other, "000"),
    (
        "22",
        RowRefused,
        "000 001 002 003 004 005 007 008 009 00B 00C 00D 00F 00G 00H 00L 00M 00N 00S 00T 010 011 012 013 014 \
         015 016 018 019 01B 01E 01F 01G 01W 01X 021 022 023 024 025 026 027 02E 02G 02H 030 031 032 033 034 \
         035 036 037 038 039 03A 03B 03C 03D 03E 03F 03G P01 P02 P03 P04 P05 P06",
    ),
    ("23", RowRefused, "000 001 502 503 505 514 P01"),
    ("24", Other, "000"),
    ("25", Other, "000 001 002 003 004 005 006 007 008 P01 P02 P03 P04"),
    ("26", Other, "000"),
    ("27", RowRefused, "000"),
    ("28", Login, "000 P01"),
    ("2B", Other, "000 P01"),
    ("2D", Other, "000"),
    ("2F", RoutineFailure, "000 002 003 004 005"),
    ("34", Other, "000"),
    ("38", RoutineFailure, "000 001 002 003 004"),
    ("39", RoutineFailure, "000 001 004 P01 P02 P03"),
    ("3B", Other, "000 001"),
    ("3D", MissingDatabase, "000"),
    ("3F", MissingSchema, "000"),
    ("40", Transient, "000 001 002 003 P01"),
    (
        "42",
        Statement,
        "000 501 601 602 611 622 701 702 703 704 710 712 723 725 803 804 809 830 846 883 8C9 939 P01 P02 P03 \
         P04 P05 P06 P07 P08 P09 P10 P11 P12 P13 P14 P15 P16 P17 P18 P19 P20 P21 P22",
    ),
    ("44", RowRefused, "000"),
    ("53", InsufficientResources, "000 100 200 300 400"),
    ("54", ProgramLimit, "000 001 011 023"),
    ("55", Other, "000 006 P02 P03 P04"),
    ("57", Transient, "000 014 P01 P02 P03 P04 P05"),
    ("58", Transient, "000 030 P01 P02 P03"),
    ("72", Other, "000"),
    ("F0", Other, "000 001"),
    (
        "HV",
        Other,
        "000 001 002 004 005 006 007 008 009 00A 00B 00C 00D 00J 00K 00L 00M 00N 00P 00Q 00R 010 014 021 024 \
         090 091",
    ),
    ("P0", RowRefused, "000 001 002 003 004"),
    ("XX", Transient, "000 001 002"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The whole mapping: classes, and codes that differ from their class.
    const EXPECTED: [(SqlStateClass, &str); 18] = [
        (RowRefused, "22 23 27 44 P0"),
        (Transient, "08 40 57 58 XX 26000 42P05"),
        (LockNotAvailable, "55P03"),
        (InsufficientResources, "53"),
        (TooManyConnections, "53300"),
        (ConfigurationLimit, "53400"),
        (ProgramLimit, "54"),
        (ReadOnly, "25006"),
        (Privilege, "42501"),
        (InvalidPassword, "28P01"),
        (Login, "28"),
        (MissingDatabase, "3D"),
        (MissingSchema, "3F"),
        (MissingTable, "42P01"),
        (MissingColumn, "42703"),
        (Statement, "42"),
        (RoutineFailure, "2F 38 39"),
        (Other, "00 01 02 03 09 0A 0B 0F 0L 0P 0Z 10 20 21 24 25 26 2B 2D 34 3B 55 72 F0 HV"),
    ];

    /// Codes that PostgreSQL does not list, and texts that are no codes.
    const HOSTILE: [&str; 24] = [
        "",
        "2",
        "23",
        "230",
        "2350",
        "23XYZ",
        "235055",
        "23505 ",
        " 23505",
        "23 00",
        "23é5",
        "2é",
        "é",
        "ééééé",
        "2\u{1F600}",
        "45000",
        "U1234",
        "P0999",
        "00 00",
        "000 001",
        "p0001",
        "22p02",
        "\0\0\0\0\0",
        "ZZZZZ",
    ];

    fn expected(code: &str) -> SqlStateClass {
        let find = |wanted: &str| EXPECTED.iter().find(|(_, codes)| codes.split(' ').any(|known| known == wanted));
        find(code).or_else(|| find(&code[..2])).expect(code).0
    }

    #[test]
    fn every_code_of_postgresql_has_its_class() {
        let codes =
            CLASSES.iter().flat_map(|(class, _, codes)| codes.split(' ').map(move |rest| format!("{class}{rest}")));
        let codes: Vec<String> = codes.collect();
        let distinct: std::collections::BTreeSet<&String> = codes.iter().collect();
        assert_eq!((codes.len(), distinct.len()), (263, 263));
        for code in &codes {
            assert!(is_listed(code) && code.len() == 5, "{code}");
            assert_eq!(SqlStateClass::of(code), expected(code), "{code}");
        }
    }

    #[test]
    fn messages_are_shown_unless_a_row_or_user_code_may_have_written_them() {
        for (code, routine, disclosure) in [
            ("42501", Some("aclcheck_error"), Disclosure::Message),
            ("42P01", None, Disclosure::Message),
            ("40P01", None, Disclosure::Message),
            ("28P01", None, Disclosure::Message),
            ("0A000", None, Disclosure::Message),
            ("23505", Some("_bt_check_unique"), Disclosure::Place),
            ("22P02", None, Disclosure::Place),
            ("44000", None, Disclosure::Place),
            ("27000", None, Disclosure::Place),
            // RAISE can use any code.
            ("23514", Some("exec_stmt_raise"), Disclosure::Code),
            ("42501", Some("exec_stmt_raise"), Disclosure::Code),
            ("38000", Some("PLy_elog_impl"), Disclosure::Code),
            ("P0001", None, Disclosure::Code),
            ("P0004", None, Disclosure::Code),
            ("38000", None, Disclosure::Code),
            ("39P01", None, Disclosure::Code),
        ] {
            assert_eq!(Disclosure::of(code, routine), disclosure, "{code} {routine:?}");
        }
    }

    #[test]
    fn hostile_codes_are_classified_by_their_first_two_characters_and_never_shown() {
        for code in HOSTILE {
            assert!(!is_listed(code), "{code:?}");
            assert_eq!(Disclosure::of(code, None), Disclosure::Code, "{code:?}");
        }
        for code in ["", "2", "é", "2é", "ééééé", "45000", "U1234", "ZZZZZ", "p0001"] {
            assert_eq!(SqlStateClass::of(code), ApplicationDefined, "{code:?}");
        }
        for code in ["23", "23XYZ", "235055", "23é5"] {
            assert_eq!(SqlStateClass::of(code), RowRefused, "{code:?}");
        }
        assert_eq!(SqlStateClass::of("40XYZ"), Transient);
    }

    proptest! {
        #[test]
        fn any_text_has_a_class_and_only_listed_codes_are_shown(
            code in prop_oneof!["\\PC*", "[0-9A-Z]{5}", "(22|23|42|P0|45)\\PC{0,4}"],
            routine in prop::option::of("[a-z_]{0,16}"),
        ) {
            let (class, disclosure) = (SqlStateClass::of(&code), Disclosure::of(&code, routine.as_deref()));
            if class == ApplicationDefined || !is_listed(&code) {
                prop_assert_eq!(disclosure, Disclosure::Code);
            }
            if class == RowRefused {
                prop_assert_ne!(disclosure, Disclosure::Message);
            }
        }
    }
}

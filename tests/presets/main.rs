//! Every preset on its store's tables: snapshot, all kinds of changes, restart, resync, and secrets that stay.
//!
//! `verified` presets run on tables that the store's own software creates (`tests/providers/*.sh`, fetched from a
//! package registry); the others on tables of the same shape (`tests/providers/*.sql`).

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod bed;
mod linked;
mod single;
#[path = "../support/mod.rs"]
mod support;

use bed::{Case, Tables, run};
use users_sync::config::PRESETS;

macro_rules! cases {
    ($($name:ident: $case:path),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            run(&$case).await;
        })*
        const CASES: &[&Case] = &[$(&$case),*];
    };
}

cases! {
    authentik: single::AUTHENTIK,
    authentik_in_several_schemas: single::AUTHENTIK_SCHEMAS,
    authjs: single::AUTHJS,
    authjs_with_the_pg_adapter: single::AUTHJS_PG,
    better_auth: single::BETTER_AUTH,
    better_auth_in_snake_case: single::BETTER_AUTH_SNAKE,
    better_auth_with_organizations: linked::BETTER_AUTH_ORGANIZATIONS,
    casdoor: single::CASDOOR,
    devise: single::DEVISE,
    django: single::DJANGO,
    fusionauth: linked::FUSIONAUTH,
    keycloak: linked::KEYCLOAK,
    kratos: linked::KRATOS,
    logto: single::LOGTO,
    neon_auth: single::NEON_AUTH,
    stack_auth: linked::STACK_AUTH,
    supabase: single::SUPABASE,
    supertokens: linked::SUPERTOKENS,
    zitadel: linked::ZITADEL,
}

#[test]
fn every_preset_has_a_case_and_the_right_verified_flag() {
    for preset in PRESETS {
        let cases: Vec<_> = CASES.iter().filter(|case| case.preset == preset.name).collect();
        assert!(!cases.is_empty(), "{} has no case", preset.name);
        let own = cases.iter().any(|case| matches!(case.tables, Tables::Own(_)));
        assert_eq!(own, !preset.about().verified.starts_with("no: "), "{}", preset.name);
    }
}

//! The fingerprints of mappings as people configure them, literally: an upgrade that changes one resyncs all tenants
//! that use it.

use super::*;
use crate::config::{Env, PRESETS, parse};
use crate::model::Column;

fn config(users: &str) -> Config {
    let variable = |_: &str| None;
    let file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let text = format!(
        "source: {{url: postgres://u@h/db}}\n\
         users:\n  {users}\n\
         tenants: [{{id: acme, target: postgres://u@h/acme}}]\n"
    );
    parse("test.yaml", &text, &Env { variable: &variable, file: &file }).unwrap()
}

/// Names and fingerprints of the preset's families, on a table with the oid 16384 from which two columns leave.
fn preset_fingerprints(preset: &str) -> Vec<(String, String)> {
    let exposed = [("id", Some(2950)), ("gone", None)];
    let families = config(&format!("preset: {preset}")).families;
    families.into_iter().map(|family| (family.name, map::fingerprint(&family.rules, 16_384, exposed))).collect()
}

macro_rules! presets {
    ($($test:ident $preset:literal: $([$family:literal, $fingerprint:literal])*;)*) => {
        $(#[test]
        fn $test() {
            let expected = [$(($family.to_owned(), $fingerprint.to_owned())),*];
            assert_eq!(preset_fingerprints($preset), expected);
        })*

        #[test]
        fn every_preset_has_its_fingerprint() {
            let tested = [$($preset),*];
            let missing: Vec<_> = PRESETS.iter().filter(|preset| !tested.contains(&preset.name)).collect();
            assert!(missing.is_empty(), "add their fingerprints above: {missing:?}");
        }
    };
}

presets! {
    authentik "authentik": ["", "93b539a6f3099081190c8389b4a4f621"];
    authjs "authjs": ["Drizzle adapter", "c701f546c97beedfa96ff71a3086faf0"] ["pg adapter", "744c7a020b17052c3b23738bd858ad2c"] ["Prisma", "f8f6b789c68588e1ab18ae847e487f2b"];
    better_auth "better-auth": ["camelCase", "bee002d1b604cc7a5e672f386a767bdd"] ["snake_case", "7bebda262b51155e096ac44f5bf214d0"];
    casdoor "casdoor": ["", "08222c7c8e82ef7f706ab9997524032c"];
    devise "devise": ["", "7aaf19c7598822c468684093d02e3b42"];
    django "django": ["", "e7e9f9c07541e3a41f777e3f6a8de04c"];
    fusionauth "fusionauth": ["", "accc66b76744cc63d69abc4d06cb912b"];
    keycloak "keycloak": ["", "e95a4f44e98d01d24537eedd1c56e32f"];
    kratos "kratos": ["", "cd94c850cf4ac18701484e7183eba5a0"];
    logto "logto": ["", "3bf6c6f9397cf19302bc0d4b80e951b2"];
    neon_auth "neon-auth": ["", "daae30d1541b7eeb7c9912b7dc01652a"];
    stack_auth "stack-auth": ["", "e793909a2478fd88546f2cbde5136324"];
    supabase "supabase": ["", "7e4c463355a3449dd1c8b0e2538b89a8"];
    supertokens "supertokens": ["", "43a1e993d772ea5ea5fd9c3e48ef2a2c"];
    zitadel "zitadel": ["", "1738ae6dc2abc5d06301c70f84a68f55"];
}

#[test]
fn a_fanned_out_mapping_has_its_fingerprint() {
    let fan_out = "table: public.users\n  id: id\n  fan_out: {table: public.members, id: user_id, tenant: org_id}";
    assert_eq!(map::fingerprint(&config(fan_out).users, 16_384, []), "43654ec153b4e575b152dc9ebfa67244");
}

#[test]
fn the_fingerprint_names_the_columns_that_leave_with_their_types() {
    let columns = [("id", 2950), ("email", 25), ("password_hash", 25)].map(|(name, type_oid)| Column {
        name: name.to_owned(),
        type_oid,
        in_identity: name == "id",
    });
    let rules = config("table: auth.users\n  id: id\n  email: email").users;
    let relation = Relation {
        oid: 16_384,
        table: rules.table.clone(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.into(),
        leaves: Vec::new(),
    };
    let plan = RowPlan::compile(&rules, &relation, &TypeCatalog::new()).unwrap();
    let mapped = MappedRelation { relation, plan, from: String::new(), converted: Vec::new() };
    let exposed = [("id", Some(2950)), ("email", Some(25))];
    assert_eq!(fingerprint(&rules, &mapped), map::fingerprint(&rules, 16_384, exposed));
    assert_eq!(fingerprint(&rules, &mapped), "2fe7f634dd20b01ff1bedef90dcfb5c5");
}

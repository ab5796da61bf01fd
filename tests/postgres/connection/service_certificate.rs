//! The whole service at a server that requires client certificates, and the remedies where one is missing or wrong.

use super::client_certificate::{Files, sign};
use super::{Authority, roots, use_certificate};
use crate::support::process::{Process, command, config_file, said};
use crate::support::{Bed, DEADLINE, pause};
use rcgen::PKCS_ECDSA_P256_SHA256;
use std::time::Instant;
use users_sync::throwaway::Options;

#[tokio::test(flavor = "multi_thread")]
async fn the_service_logs_in_everywhere_with_certificates_and_names_missing_ones() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let options = Options::new()
        .hba("hostssl all reader 127.0.0.1/32 cert")
        .hba("hostssl all keeper 127.0.0.1/32 scram-sha-256 clientcert=verify-full")
        .hba("hostssl all writer 127.0.0.1/32 scram-sha-256 clientcert=verify-full")
        .hba("hostssl all other 127.0.0.1/32 cert")
        .set("ssl_ca_file", "clients.pem");
    let mut bed = Bed::start_with(&["acme", "globex", "initech", "umbrella"], options).await;
    bed.server.write_file("clients.pem", &std::fs::read(authority.file()).unwrap()).unwrap();
    use_certificate(&mut bed.server, authority.sign("127.0.0.1")).await;
    let roles = ["reader", "keeper", "writer", "other"];
    for role in roles {
        bed.auth(&format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'p'")).await;
    }
    bed.server.create_database("state").await.unwrap();
    let [reader, keeper, writer, _] = roles.map(|role| Files::new(&sign(&authority, role)));
    let url = |login: &str, database: &str, files: Option<&Files>| {
        let (port, roots) = (bed.server.port(), roots(&authority.file()));
        let certificate = files.map(|files| format!("&{}", files.parameters())).unwrap_or_default();
        format!("postgresql://{login}@127.0.0.1:{port}/{database}?sslmode=verify-full&{roots}{certificate}")
    };
    // The tenant's URL, and what the server says where the certificate is missing or names another role.
    let tenants = [
        ("acme", url("writer:p", "acme", Some(&writer)), None),
        ("globex", url("writer:p", "globex", None), Some("requires a valid client certificate")),
        ("initech", url("writer:p", "initech", Some(&reader)), Some("password authentication failed")),
        ("umbrella", url("other", "umbrella", Some(&reader)), Some("certificate authentication failed")),
    ];
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u', unnest(ARRAY['acme', 'globex', 'initech', 'umbrella'])")
        .await;
    let targets: Vec<_> = tenants.iter().map(|(tenant, url, _)| ((*tenant).to_owned(), url.clone())).collect();
    let state = format!("state: {{url: '{}'}}", url("keeper:p", "state", Some(&keeper)));
    let config = config_file(&url("reader", "auth", Some(&reader)), &targets, &state);

    let (text, code) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
    assert_eq!(code, Some(1), "{text}");
    let remedy = "set sslcert and sslkey in the URL to one whose common name is the role's";
    for (tenant, _, refused) in &tenants {
        let finding = text
            .split("\nerror: ")
            .find(|finding| finding.trim_start_matches("error: ").starts_with(&format!("tenant {tenant}:")));
        match (finding, refused) {
            (None, None) => {}
            (Some(finding), Some(reason)) => assert!(finding.contains(reason) && finding.contains(remedy), "{finding}"),
            _ => panic!("{tenant}: {text}"),
        }
    }

    let (process, log) = Process::start_logged(&config);
    let deadline = Instant::now() + DEADLINE;
    let held = async || bed.held("acme").await;
    while held().await.is_empty() || held().await != bed.expected("acme").await {
        assert!(Instant::now() < deadline, "no user arrives: {}", bed.server.log_tail());
        pause().await;
    }
    // By the stream as well.
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    while held().await != bed.expected("acme").await {
        assert!(Instant::now() < deadline, "no change arrives: {}", bed.server.log_tail());
        pause().await;
    }
    let own = "SELECT string_agg(DISTINCT usename || ':' || client_dn, ' ' ORDER BY usename || ':' || client_dn)
               FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE ssl";
    bed.becomes("auth", own, "keeper:/CN=keeper reader:/CN=reader writer:/CN=writer").await;
    let walsender = "SELECT client_dn FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)";
    bed.becomes("auth", walsender, "/CN=reader").await;
    for (tenant, ..) in tenants.iter().filter(|(_, _, refused)| refused.is_some()) {
        let sql = format!("SELECT state || ': ' || remedy FROM users_sync.tenant WHERE tenant = '{tenant}'");
        loop {
            let rows = bed.query("state", &sql).await;
            let shown = rows.first().and_then(|row| row[0].clone()).unwrap_or_default();
            if shown.starts_with("parked: ") && shown.contains(remedy) {
                break;
            }
            assert!(Instant::now() < deadline, "{tenant} is {rows:?}");
            pause().await;
        }
    }

    // A server that asks for certificates refuses a password: a tenant that followed is tried again, and not parked.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer' AND datname = 'acme'";
    bed.server.sql("postgres", &format!("ALTER ROLE writer PASSWORD 'new'; {end}")).await.unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Cid', updated_at = now()").await;
    let shown = format!(
        "SELECT concat(state, ' ', reason_code, ' ', strpos(remedy, '{}') > 0) FROM users_sync.tenant WHERE tenant = 'acme'",
        remedy.replace('\'', "''")
    );
    bed.becomes("state", &shown, "following target_login t").await;
    bed.server.sql("postgres", "ALTER ROLE writer PASSWORD 'p'").await.unwrap();
    bed.becomes("state", &shown, "following  ").await;
    let deadline = Instant::now() + DEADLINE;
    while held().await != bed.expected("acme").await {
        assert!(Instant::now() < deadline, "no change arrives: {}", log.text());
        pause().await;
    }
    let text = log.text();
    assert!(!text.lines().any(|line| line.contains("parked") && line.contains("acme")), "{text}");
    assert!(process.stop().await.success());
}

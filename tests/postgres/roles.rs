//! Roles that are used for several databases of one server: `check`, `setup` and `run` report them.

use crate::support::Bed;
use crate::support::process::{Process, command, config_file, said};

const SHARED: &str = "the owner of one target can act as this role in the other databases";

fn roles() -> &'static str {
    "CREATE ROLE reader LOGIN SUPERUSER; CREATE ROLE writer LOGIN SUPERUSER; CREATE ROLE \"writer_acme\" LOGIN SUPERUSER"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_two_targets_is_reported_with_its_remedy() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(roles()).await;
    let source = bed.server.url_for("reader", "auth");
    let target = |tenant: &str, role: &str| (tenant.to_owned(), bed.server.url_for(role, tenant));
    let shared = [target("acme", "writer"), target("globex", "writer")];
    let config = config_file(&source, &shared, "");
    let path = config.path().to_str().unwrap();
    let (text, code) = said(&command(&["check", "-c", path]).await);
    let at = format!(":{}", bed.server.port());
    let remedy = "one role per target: CREATE ROLE \"writer_acme\" LOGIN PASSWORD '...'; \
                  CREATE ROLE \"writer_globex\" LOGIN PASSWORD '...'; then set it in the target's URL";
    for expected in
        ["warning: tenant acme: role writer of server ", &at, "tenant acme, tenant globex: ", SHARED, remedy]
    {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert_eq!(code, Some(0), "{text}");
    let setup = ["setup", "-c", path, "--source-admin", &bed.server.url("auth")];
    let (text, code) = said(&command(&setup).await);
    assert!(text.contains("warning: role writer") && text.contains(SHARED) && text.contains(remedy), "{text}");
    assert_eq!(code, Some(0), "{text}");
    let (process, log) = Process::start_logged(&config);
    log.says("targets share a role: role writer").await;
    assert!(log.text().lines().any(|line| line.contains("WARN") && line.contains(SHARED)), "{}", log.text());
    assert!(process.stop().await.success());

    // Refused: before anything is created.
    let refused = config_file(&source, &shared, "targets: {share_role: refuse}");
    for name in ["check", "run", "setup"] {
        let (text, code) = said(&command(&[name, "-c", refused.path().to_str().unwrap()]).await);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("targets.share_role is refuse, but role writer") && text.contains(remedy), "{text}");
    }

    // The remedy.
    let own = [target("acme", "writer_acme"), target("globex", "writer")];
    let fixed = config_file(&source, &own, "targets: {share_role: refuse}");
    let (text, code) = said(&command(&["check", "-c", fixed.path().to_str().unwrap()]).await);
    assert!(code == Some(0) && !text.contains(SHARED), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_the_source_and_a_target_is_reported() {
    let bed = Bed::start(&["acme"]).await;
    let config = bed.config_file("");
    let (text, _) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
    assert!(text.contains("is used for the source, tenant acme: "), "{text}");
}

/// `run` compares the URLs, `check` also asks the servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_two_names_is_recognised_by_check() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(roles()).await;
    let source = bed.server.url_for("reader", "auth");
    let socket = bed.server.socket_dir().to_str().unwrap().replace('/', "%2F");
    let globex = format!("postgres://writer@{socket}:{}/globex", bed.server.port());
    let targets = [("acme".to_owned(), bed.server.url_for("writer", "acme")), ("globex".to_owned(), globex)];
    for (more, severity, expected) in [("", "warning", 0), ("targets: {share_role: refuse}", "error", 1)] {
        let config = config_file(&source, &targets, more);
        let (text, code) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
        assert!(text.contains(&format!("{severity}: tenant acme: role writer of server")), "{text}");
        assert_eq!(code, Some(expected), "{text}");
    }
    // A copy of the files is another server.
    let other = Bed::start(&["globex"]).await;
    other.server.sql("globex", roles()).await.unwrap();
    let targets = [targets[0].clone(), ("globex".to_owned(), other.server.url_for("writer", "globex"))];
    let config = config_file(&source, &targets, "");
    let (text, _) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
    assert!(!text.contains(SHARED), "{text}");
}

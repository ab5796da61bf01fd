//! TLS with certificates on both sides, the SASL mechanisms, and the messages when one of them is wrong.

use crate::bed::TeeBed;
use crate::broker::{Broker, Settings};
use crate::support::process::{Process, command, said};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A broker that requires a client certificate and a password, and grants all rights to `tee` only.
pub struct Guarded {
    pub broker: Broker,
    /// Holds `ca.pem`, `other.pem` (an untrusted authority), `client.pem` and `client.key`.
    files: TempDir,
}

pub fn guarded() -> &'static Guarded {
    static GUARDED: OnceLock<Guarded> = OnceLock::new();
    GUARDED.get_or_init(|| {
        // Issuer and certificate need different names: OpenSSL takes equal names for a self-signed certificate.
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
        };
        let (ca, issuer) = authority("an authority");
        let (other, _) = authority("another authority");
        let signed = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
            params.distinguished_name.push(DnType::CommonName, names[0]);
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (server, server_key) = signed(&["localhost"]);
        let (client, client_key) = signed(&["tee"]);
        let files = TempDir::new().unwrap();
        for (name, text) in [("ca.pem", &ca), ("other.pem", &other), ("client.pem", &client), ("client.key", &client_key)] {
            std::fs::write(files.path().join(name), text).unwrap();
        }
        let security = "org.apache.kafka.common.security";
        let settings = Settings {
            protocol: Some("SASL_SSL"),
            files: vec![("server.pem", format!("{server_key}{server}").into_bytes()), ("ca.pem", ca.into_bytes())],
            lines: vec![
                "ssl.keystore.type=PEM\nssl.keystore.location={DIR}/server.pem".to_owned(),
                "ssl.truststore.type=PEM\nssl.truststore.location={DIR}/ca.pem".to_owned(),
                "listener.name.clients.ssl.client.auth=required".to_owned(),
                "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,OAUTHBEARER".to_owned(),
                format!("listener.name.clients.plain.sasl.jaas.config={security}.plain.PlainLoginModule required user_tee=\"hunter2\" user_weak=\"hunter3\";"),
                format!("listener.name.clients.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;"),
                format!("listener.name.clients.oauthbearer.sasl.jaas.config={security}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"tee\";"),
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
                "super.users=User:ANONYMOUS;User:tee".to_owned(),
            ],
            format: vec!["--add-scram".to_owned(), "SCRAM-SHA-256=[name=tee,password=hunter2]".to_owned()],
        };
        Guarded { broker: Broker::start(&settings), files }
    })
}

impl Guarded {
    /// The `properties` of the section, plus `more`.
    pub fn properties(&self, authority: &str, more: &str) -> String {
        let file = |name: &str| self.files.path().join(name).display().to_string();
        format!(
            "properties: {{security.protocol: sasl_ssl, ssl.ca.location: '{}', ssl.certificate.location: '{}', \
             ssl.key.location: '{}', {more}}}",
            file(authority),
            file("client.pem"),
            file("client.key")
        )
    }

    async fn bed(&self, name: &str, authority: &str, more: &str) -> TeeBed {
        TeeBed::start(&self.broker, name, &self.properties(authority, more), "").await
    }

    /// Asserts that the tee publishes and that its messages can be read with the same properties.
    async fn works(&self, name: &str, more: &str) {
        let bed = self.bed(name, "ca.pem", more).await;
        let process = Process::start(&bed.file);
        bed.tee_is("following").await;
        bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
        let file = |name: &str| self.files.path().join(name).display().to_string();
        let (ca, certificate, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
        let properties = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", &ca),
            ("ssl.certificate.location", &certificate),
            ("ssl.key.location", &key),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "tee"),
            ("sasl.password", "hunter2"),
        ];
        let topic = bed.topic("acme");
        crate::broker::until("the user is in the topic", async || {
            crate::consumer::read_with(&bed.brokers, &topic, &properties).iter().any(|message| message.id() == "u")
        })
        .await;
        assert!(process.stop().await.success());
    }

    /// Log and `status` contain these words and no secret, and the tee recovers once the file is corrected.
    async fn refuses(
        &self,
        name: &str,
        authority: &str,
        more: &str,
        (words, remedy): (&str, &str),
        (from, to): (&str, &str),
    ) {
        let bed = self.bed(name, authority, more).await;
        let (process, log) = Process::start_logged(&bed.file);
        log.says(remedy).await;
        log.says(words).await;
        bed.bed.equal().await;
        let path = bed.file.path().to_str().unwrap();
        let (text, code) = said(&command(&["status", "-c", path]).await);
        assert!(code == Some(1) && text.contains(remedy) && !text.contains("hunter"), "{text}");
        let yaml = std::fs::read_to_string(path).unwrap();
        assert!(yaml.contains(from), "{yaml}");
        std::fs::write(path, yaml.replace(from, to)).unwrap();
        bed.tee_is("following").await;
        let status = process.stop().await;
        let text = log.text();
        assert!(status.success(), "{status}: {text}");
        assert!(!text.contains("hunter"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sasl_mechanism_works_over_tls_with_a_client_certificate() {
    let guarded = guarded();
    guarded.works("scram", "sasl.mechanism: SCRAM-SHA-256, sasl.username: tee, sasl.password: hunter2").await;
    guarded.works("plain", "sasl.mechanism: PLAIN, sasl.username: tee, sasl.password: hunter2").await;
    let token = "sasl.mechanism: OAUTHBEARER, enable.sasl.oauthbearer.unsecure.jwt: 'true', sasl.oauthbearer.config: 'principal=tee'";
    guarded.works("oauth", token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_authority_or_privilege_is_reported() {
    let guarded = guarded();
    let login =
        |user: &str, password: &str| format!("sasl.mechanism: PLAIN, sasl.username: {user}, sasl.password: {password}");
    let said = ("uthentication failed", "correct sasl.mechanism, sasl.username and sasl.password");
    guarded.refuses("wrong", "ca.pem", &login("tee", "hunter4"), said, ("hunter4", "hunter2")).await;
    let said = ("certificate", "name the authority that signed the brokers' certificates in ssl.ca.location");
    guarded.refuses("untrusted", "other.pem", &login("tee", "hunter2"), said, ("other.pem", "ca.pem")).await;
    let said = ("uthorization failed", "the role of kafka.properties");
    let (weak, strong) = (login("weak", "hunter3"), login("tee", "hunter2"));
    guarded.refuses("weak", "ca.pem", &weak, said, (&weak, &strong)).await;
}

/// A role without any privilege is granted what each remedy names, until the tee works. Nothing else is needed.
#[tokio::test(flavor = "multi_thread")]
async fn the_remedies_name_every_privilege_that_a_role_needs() {
    let guarded = guarded();
    let login = "sasl.mechanism: PLAIN, sasl.username: weak, sasl.password: hunter3";
    let bed = guarded.bed("given", "ca.pem", login).await;
    let (process, log) = Process::start_logged(&bed.file);
    let topics = ["--topic", "given", "--resource-pattern-type", "prefixed"];
    let mut rights: Vec<(&str, &[&str], &[&str])> = vec![
        (
            "allow it Describe, Read and Write on the topic, and Create",
            &["Describe", "Read", "Write", "Create"],
            &topics,
        ),
        ("allow it Create and IdempotentWrite on the cluster", &["Create", "IdempotentWrite"], &["--cluster"]),
        (
            "on the transactional id <kafka.positions_topic>.<kafka.slot>",
            &["Describe", "Write"],
            &["--transactional-id", "given.positions.users_sync_kafka"],
        ),
        (
            "Read on the group <kafka.positions_topic>.<kafka.slot>",
            &["Read"],
            &["--group", "given.positions.users_sync_kafka"],
        ),
    ];
    // Granting a right takes seconds: each has a deadline of its own.
    while bed.tee_state().await != "following" {
        let mut named = None;
        crate::broker::until("a remedy names a right, or the tee follows", async || {
            let said = log.text();
            named = rights.iter().position(|(remedy, ..)| said.contains(remedy));
            named.is_some() || bed.tee_state().await == "following"
        })
        .await;
        if let Some(named) = named {
            let (_, operations, resource) = rights.remove(named);
            guarded.broker.allow("weak", operations, resource).await;
        }
    }
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    bed.tee_is("following").await;
    // A role that may create and write these topics needs nothing on the cluster.
    let left: Vec<_> = rights.iter().map(|(remedy, ..)| *remedy).collect();
    assert_eq!(left, ["allow it Create and IdempotentWrite on the cluster"], "{}", log.text());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_the_guarantee_depends_on_cannot_be_set() {
    let bed = TeeBed::start_with("127.0.0.1:1", "ours", "properties: {acks: 1}", "").await;
    let (text, code) = said(&command(&["check", "-c", bed.file.path().to_str().unwrap()]).await);
    assert!(
        code == Some(1) && text.contains("kafka.properties.acks is managed by users-sync and cannot be overridden"),
        "{text}"
    );
    let oidc = "properties: {sasl.mechanism: OAUTHBEARER, sasl.oauthbearer.method: oidc}";
    let bed = TeeBed::start_with("127.0.0.1:1", "oidc", oidc, "").await;
    let (text, code) = said(&command(&["check", "-c", bed.file.path().to_str().unwrap()]).await);
    assert!(code == Some(1) && text.contains("libcurl, which is not built in") && text.contains("use SCRAM"), "{text}");
    let bed = TeeBed::start_with("127.0.0.1:1", "unknown", "properties: {ssl.ca.lokation: x}", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("ssl.ca.lokation").await;
    assert!(process.stop().await.success());
}

/// Threads that have called OpenSSL may still end while the process exits.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_soon_after_it_has_reached_kafka_exits_with_success() {
    let guarded = guarded();
    let login = "sasl.mechanism: PLAIN, sasl.username: tee, sasl.password: hunter2";
    let bed = guarded.bed("leaving", "ca.pem", login).await;
    // Every start logs both.
    for step in ["streaming slot", "Kafka output up to date"].into_iter().cycle().take(12) {
        let (process, log) = Process::start_logged(&bed.file);
        log.says(step).await;
        let status = process.stop().await;
        assert!(status.success(), "after {step:?}: {status}\n{}", log.text());
    }
}

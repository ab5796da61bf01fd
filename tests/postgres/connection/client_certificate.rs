//! Client certificates (`sslcert`, `sslkey`, `sslpassword`): logins with them, every form of a key, and what is refused.

use super::{Authority, Signed, outcome, refusal, roots, url, use_certificate};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519,
};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use users_sync::throwaway::{Options, PostgresServer};

/// The files of a client's certificate and key.
pub(super) struct Files {
    dir: TempDir,
}

impl Files {
    pub(super) fn new(signed: &Signed) -> Files {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        files.write("cert.pem", &signed.certificate);
        files.write("key.pem", &signed.key);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
        self.set_mode(name, 0o600);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    pub(super) fn parameters(&self) -> String {
        self.parameters_with("key.pem")
    }

    fn parameters_with(&self, key: &str) -> String {
        format!("sslcert={}&sslkey={}", self.path("cert.pem").display(), self.path(key).display())
    }

    fn openssl(&self, arguments: &str) {
        openssl(self.dir.path(), arguments);
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let run = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().unwrap();
    assert!(run.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&run.stderr));
    for key in ["key.pem", "new.pem", "new.der"].map(|name| dir.join(name)).iter().filter(|key| key.exists()) {
        std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// Signs a client's certificate for a role.
fn sign_role(authority: &Authority, key: &KeyPair, role: &str, is_expired: bool) -> Signed {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, role);
    if is_expired {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }
    Signed { certificate: params.signed_by(key, &authority.issuer).unwrap().pem(), key: key.serialize_pem() }
}

pub(super) fn sign(authority: &Authority, role: &str) -> Signed {
    sign_role(authority, &KeyPair::generate().unwrap(), role, false)
}

/// A server with the roles `alone`, which needs a certificate, `paired`, which also needs a password, and `nameless`, whose
/// certificate needs no name.
async fn server(clients: &Authority, servers: &Authority) -> PostgresServer {
    let options = Options::new()
        .hba("hostssl all alone 127.0.0.1/32 cert")
        .hba("hostssl all paired 127.0.0.1/32 scram-sha-256 clientcert=verify-full")
        .hba("hostssl all nameless 127.0.0.1/32 scram-sha-256 clientcert=verify-ca")
        .set("ssl_ca_file", "clients.pem");
    let mut server = PostgresServer::start(options).await.unwrap();
    server.write_file("clients.pem", &std::fs::read(clients.file()).unwrap()).unwrap();
    use_certificate(&mut server, servers.sign("127.0.0.1")).await;
    let roles = "create role alone login replication; create role paired login replication password 'p'; \
         create role nameless login replication password 'p'";
    server.sql("postgres", roles).await.unwrap();
    server
}

#[tokio::test]
async fn a_certificate_logs_in_alone_or_with_a_password() {
    let (clients, strangers) = (Authority::new(&PKCS_ECDSA_P256_SHA256), Authority::new(&PKCS_ECDSA_P256_SHA256));
    let mut server = server(&clients, &strangers).await;
    let [only, both, foreign] = [(&clients, "alone"), (&clients, "paired"), (&strangers, "alone")]
        .map(|(by, role)| Files::new(&sign(by, role)));
    let expired = Files::new(&sign_role(&clients, &KeyPair::generate().unwrap(), "alone", true));
    let verified = format!("sslmode=verify-full&{}", roots(&strangers.file()));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let limit = format!("alter system set ssl_max_protocol_version = '{version}'");
        server.sql("postgres", &limit).await.unwrap();
        server.restart().await.unwrap();
        let url = |login: &str, parameters: &str| url(login, "127.0.0.1", server.port(), parameters);
        for (login, files, expected) in [
            ("alone", Some(&only), "tls"),
            ("alone", Some(&both), "auth 28000"),
            ("alone", None, "auth 28000"),
            ("alone", Some(&foreign), "no tls"),
            ("alone", Some(&expired), "no tls"),
            ("paired:p", Some(&both), "tls"),
            ("paired:p", Some(&only), "auth 28P01"),
            ("paired:p", None, "auth 28000"),
            ("paired:wrong", Some(&both), "auth 28P01"),
            ("paired", Some(&both), "auth"),
            ("nameless:p", Some(&only), "tls"),
            ("nameless:p", None, "auth 28000"),
            // The server accepts any valid certificate, and no other, of a role that needs none.
            ("postgres", Some(&only), "tls"),
            ("postgres", Some(&foreign), "no tls"),
        ] {
            let certificate = files.map(Files::parameters).unwrap_or_default();
            for mode in [&verified, "sslmode=require"] {
                let url = url(login, &format!("{mode}&{certificate}"));
                assert_eq!(outcome(&url).await, expected, "{version} {url}");
            }
        }
        let bound = url("paired:p", &format!("{verified}&channel_binding=require&{}", both.parameters()));
        assert_eq!(outcome(&bound).await, "tls", "{version}");
        for (files, reason) in
            [(&expired, "it has expired"), (&foreign, "not from an authority in the server's ssl_ca_file")]
        {
            let said = refusal(&url("alone", &format!("{verified}&{}", files.parameters()))).await;
            let file = files.path("cert.pem").display().to_string();
            assert!(said.contains(reason) && said.contains(&file) && said.contains("replace it"), "{version}: {said}");
        }
    }
}

#[tokio::test]
async fn every_form_of_a_key_is_read() {
    let clients = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let server = server(&clients, &clients).await;
    let logs_in = async |files: &Files, key: &str, password: &str| {
        let parameters = format!("sslmode=require&{}{password}", files.parameters_with(key));
        let url = url("alone", "127.0.0.1", server.port(), &parameters);
        assert_eq!(outcome(&url).await, "tls", "{url}: {}", server.log_tail());
    };
    // The names in the certificate's request are those of the role.
    for generate in [
        "rsa -pkeyopt rsa_keygen_bits:2048",
        "EC -pkeyopt ec_paramgen_curve:P-256",
        "EC -pkeyopt ec_paramgen_curve:P-384",
        "ed25519",
    ] {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        files.openssl(&format!("genpkey -algorithm {generate} -out key.pem"));
        files.openssl("req -new -key key.pem -subj /CN=alone -out request.pem");
        std::fs::write(files.path("ca.key"), clients.issuer.key().serialize_pem()).unwrap();
        let ca = clients.file().display().to_string();
        // As in the manual's "Creating Certificates". OpenSSL 3.0 issues a certificate of version 1.
        files.openssl(&format!(
            "x509 -req -in request.pem -CA {ca} -CAkey ca.key -CAcreateserial -days 9 -out cert.pem"
        ));
        logs_in(&files, "key.pem", "").await;
        if generate.starts_with("ed") {
            continue;
        }
        let kind = if generate.starts_with("rsa") { "rsa -traditional" } else { "ec" };
        // PKCS #1 or SEC 1.
        files.openssl(&format!("{kind} -in key.pem -out new.pem"));
        logs_in(&files, "new.pem", "").await;
        files.openssl(&format!("{kind} -in key.pem -outform DER -out new.der"));
        logs_in(&files, "new.der", "").await;
    }
    let files = Files::new(&sign(&clients, "alone"));
    for cipher in [
        "-v2 aes-256-cbc",
        "-v2 aes-128-cbc -v2prf hmacWithSHA512",
        "-v2 des3 -v2prf hmacWithSHA1",
        "-scrypt",
        "-v2 aes-256-cbc -outform DER",
    ] {
        files.openssl(&format!("pkcs8 -topk8 -in key.pem {cipher} -passout pass:hunter2&3 -out new.pem"));
        logs_in(&files, "new.pem", "&sslpassword=hunter2%263").await;
        for (password, reason) in [("", "set sslpassword"), ("&sslpassword=hunter2", "correct sslpassword")] {
            let parameters = format!("{}{password}", files.parameters_with("new.pem"));
            let said = refusal(&url("alone", "127.0.0.1", server.port(), &parameters)).await;
            assert!(said.contains(reason) && said.contains("new.pem"), "{cipher}: {said}");
        }
    }
    // A password for a key without one is ignored, and one file may hold both.
    logs_in(&files, "key.pem", "&sslpassword=hunter2").await;
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| std::fs::read_to_string(files.path(name)).unwrap());
    files.write("cert.pem", &format!("{key}{certificate}"));
    logs_in(&files, "cert.pem", "").await;
}

#[tokio::test]
async fn intermediate_authorities_are_sent() {
    let clients = Authority::new(&PKCS_ECDSA_P384_SHA384);
    let server = server(&clients, &clients).await;
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "between");
    let between = params.signed_by(&key, &clients.issuer).unwrap().pem();
    let between_issues = Authority { issuer: Issuer::new(params, key), dir: tempfile::tempdir().unwrap() };
    let files = Files::new(&sign(&between_issues, "alone"));
    let url = url("alone", "127.0.0.1", server.port(), &format!("sslmode=require&{}", files.parameters()));
    assert_eq!(outcome(&url).await, "no tls");
    let leaf = std::fs::read_to_string(files.path("cert.pem")).unwrap();
    // The next attempt reads the file again.
    files.write("cert.pem", &format!("{leaf}{between}"));
    assert_eq!(outcome(&url).await, "tls");
}

/// No server is asked: the files are read first.
#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_the_remedy() {
    let clients = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let files = Files::new(&sign(&clients, "alone"));
    let check = async |certificate: &str, key: &str, words: &[&str]| {
        let [certificate, key] = [certificate, key].map(|name| files.path(name).display().to_string());
        for mode in ["allow", "prefer", "require", "verify-full"] {
            let parameters = format!("sslmode={mode}&sslcert={certificate}&sslkey={key}&sslpassword=hunter2");
            let url = url("alone", "127.0.0.1", 1, &parameters);
            let said = refusal(&url).await;
            assert!(said.starts_with("no TLS connection to"), "{said}");
            for word in words {
                assert!(said.contains(word), "{mode}: {word} is not in {said}");
            }
            assert_eq!(outcome(&url).await, "no tls");
        }
    };
    files.write("empty.pem", "");
    files.write("broken.pem", "-----BEGIN PRIVATE KEY-----\n*hunter2*\n-----END PRIVATE KEY-----\n");
    files.write("text.pem", "hunter2");
    check("missing.pem", "key.pem", &["missing.pem", "sslcert", "No such file"]).await;
    check("cert.pem", "missing.pem", &["missing.pem", "sslkey", "No such file"]).await;
    check("cert.pem", "", &["sslkey", "not a regular file"]).await;
    check("", "key.pem", &["sslcert", "not a regular file"]).await;
    // The pipe has no writer: it would be waited for.
    rustix::fs::mkfifoat(rustix::fs::CWD, files.path("pipe.pem"), rustix::fs::Mode::RWXU).unwrap();
    check("cert.pem", "pipe.pem", &["pipe.pem", "sslkey", "not a regular file"]).await;
    check("pipe.pem", "key.pem", &["pipe.pem", "sslcert", "not a regular file"]).await;
    let pipe = files.path("pipe.pem").display().to_string();
    let said = refusal(&url("alone", "127.0.0.1", 1, &format!("sslmode=verify-full&sslrootcert={pipe}"))).await;
    assert!(said.contains(&pipe) && said.contains("sslrootcert") && said.contains("not a regular file"), "{said}");
    check("empty.pem", "key.pem", &["empty.pem", "sslcert", "no certificate"]).await;
    check("key.pem", "key.pem", &["key.pem", "sslcert", "no certificate"]).await;
    for key in ["empty.pem", "broken.pem", "text.pem", "cert.pem"] {
        check("cert.pem", key, &[key, "sslkey", "no private key"]).await;
    }

    let other = KeyPair::generate().unwrap();
    files.write("other.pem", &other.serialize_pem());
    check("cert.pem", "other.pem", &["other.pem", "cert.pem", "does not belong"]).await;
    files.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out new.pem");
    check("cert.pem", "new.pem", &["new.pem", "kind that is not supported", "P-256"]).await;
    files.openssl("genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:1024 -out new.pem");
    check("cert.pem", "new.pem", &["new.pem", "kind that is not supported", "2048"]).await;
    files.openssl("ec -in key.pem -aes256 -passout pass:hunter2 -out new.pem");
    check("cert.pem", "new.pem", &["new.pem", "encrypted in a way", "openssl pkcs8 -topk8"]).await;
    files.openssl("pkcs8 -topk8 -in key.pem -v1 PBE-SHA1-3DES -passout pass:hunter2 -out new.pem");
    check("cert.pem", "new.pem", &["new.pem", "encrypted in a way", "openssl pkcs8 -topk8"]).await;

    for (mode, is_exposed) in [(0o644, true), (0o604, true), (0o660, true), (0o400, false), (0o600, false)] {
        files.set_mode("key.pem", mode);
        let parameters = format!("sslmode=require&{}", files.parameters());
        let said = refusal(&url("alone", "127.0.0.1", 1, &parameters)).await;
        assert_eq!(said.contains("chmod 0600"), is_exposed, "{mode:o}: {said}");
    }
}

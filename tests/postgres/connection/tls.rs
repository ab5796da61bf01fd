//! Certificates: which are trusted under which name, and channel binding with every kind of signature.

use super::{Authority, Signed, outcome, refusal, roots, tls_server, url, use_certificate};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use std::process::Command;
use users_sync::throwaway::Options;

#[tokio::test]
async fn chain_and_name_are_verified_as_sslmode_requires() {
    let (authority, stranger) = (Authority::new(&PKCS_ECDSA_P256_SHA256), Authority::new(&PKCS_ECDSA_P256_SHA256));
    // The certificate is valid for the name, not for the address.
    let server = tls_server(Options::new(), authority.sign("localhost")).await;
    let (ours, theirs) = (roots(&authority.file()), roots(&stranger.file()));
    let missing = "sslrootcert=/nonexistent/ca.pem".to_owned();
    for (mode, file, host, expected) in [
        ("verify-full", &ours, "localhost", "tls"),
        ("verify-full", &ours, "127.0.0.1", "no tls"),
        ("verify-full", &theirs, "localhost", "no tls"),
        ("verify-full", &missing, "localhost", "no tls"),
        ("verify-ca", &ours, "127.0.0.1", "tls"),
        ("verify-ca", &theirs, "127.0.0.1", "no tls"),
        // With a root file, `require` verifies the chain (as libpq does).
        ("require", &ours, "127.0.0.1", "tls"),
        ("require", &theirs, "127.0.0.1", "no tls"),
        ("require", &String::new(), "127.0.0.1", "tls"),
        // The Mozilla roots have not signed this certificate.
        ("verify-full", &String::new(), "localhost", "no tls"),
        ("verify-ca", &"sslrootcert=webpki".to_owned(), "localhost", "no tls"),
        ("verify-full", &"sslrootcert=system".to_owned(), "localhost", "no tls"),
        // Nothing is verified.
        ("prefer", &theirs, "127.0.0.1", "tls"),
    ] {
        let url = url("postgres", host, server.port(), &format!("sslmode={mode}&{file}"));
        assert_eq!(outcome(&url).await, expected, "{url}");
    }
}

/// The self-signed certificate from the manual's "Creating Certificates", which is its own root file.
#[tokio::test]
async fn a_self_signed_certificate_is_trusted_as_the_root_file() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().pem();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &certificate).unwrap();
    let server = tls_server(Options::new(), Signed { certificate, key: key.serialize_pem() }).await;
    for (mode, file, host, expected) in [
        ("verify-ca", file.path(), "127.0.0.1", "tls"),
        ("verify-full", file.path(), "localhost", "tls"),
        ("verify-full", file.path(), "127.0.0.1", "no tls"),
        ("verify-ca", &authority.file(), "127.0.0.1", "no tls"),
    ] {
        let url = url("postgres", host, server.port(), &format!("sslmode={mode}&{}", roots(file)));
        assert_eq!(outcome(&url).await, expected, "{url}");
    }
}

#[tokio::test]
async fn channel_binding_works_with_every_signature_that_has_a_hash() {
    let hba = "hostssl all r 127.0.0.1/32 scram-sha-256";
    let first = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let mut server = tls_server(Options::new().hba(hba), first.sign("127.0.0.1")).await;
    server.sql("postgres", "create role r login replication password 'p'").await.unwrap();
    for (algorithm, bound) in
        [(&PKCS_ECDSA_P256_SHA256, "tls"), (&PKCS_ECDSA_P384_SHA384, "tls"), (&PKCS_ED25519, "auth")]
    {
        let authority = Authority::new(algorithm);
        use_certificate(&mut server, authority.sign("127.0.0.1")).await;
        let with = |binding: &str| {
            let parameters = format!("sslmode=verify-full&{}&channel_binding={binding}", roots(&authority.file()));
            url("r:p", "127.0.0.1", server.port(), &parameters)
        };
        assert_eq!(outcome(&with("require")).await, bound, "{algorithm:?}");
        assert_eq!(outcome(&with("disable")).await, "tls", "{algorithm:?}");
        assert_eq!(outcome(&with("prefer")).await, "tls", "{algorithm:?}");
    }
}

/// A server's certificate for `localhost` that OpenSSL makes: with this key, and these arguments of `openssl x509`.
fn issue(authority: &Authority, key: &str, arguments: &str) -> Signed {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let run = Command::new("openssl").current_dir(dir.path()).args(arguments.split_whitespace()).output().unwrap();
        assert!(run.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&run.stderr));
    };
    std::fs::write(dir.path().join("ca.key"), authority.issuer.key().serialize_pem()).unwrap();
    std::fs::write(dir.path().join("names"), "subjectAltName=DNS:localhost").unwrap();
    openssl(&format!("genpkey -algorithm {key} -out key.pem"));
    openssl("req -new -key key.pem -subj /CN=database -out request.pem");
    let ca = authority.file().display().to_string();
    openssl(&format!("x509 -req -in request.pem -CA {ca} -CAkey ca.key -CAcreateserial -out cert.pem {arguments}"));
    let [certificate, key] =
        ["cert.pem", "key.pem"].map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap());
    Signed { certificate, key }
}

#[tokio::test]
async fn every_certificate_connects_without_verification() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let hba = "hostssl all r 127.0.0.1/32 scram-sha-256";
    let options = Options::new().hba(hba);
    let mut server = tls_server(options, authority.sign("localhost")).await;
    server.sql("postgres", "create role r login replication password 'p'").await.unwrap();
    let names = "-days 9 -extfile names";
    // The last column is the reason of verify-full; the certificate has no other fault.
    for (key, arguments, is_bound, fault) in [
        ("EC -pkeyopt ec_paramgen_curve:P-256", "-days 9", true, &["version 1", "version 3"][..]),
        ("EC -pkeyopt ec_paramgen_curve:P-521", names, false, &["ECDSA key on P-521", "P-256"]),
        ("ed448", names, false, &["Ed448 key", "P-256"]),
        ("rsa-pss -pkeyopt rsa_keygen_bits:2048", names, false, &["key of another kind", "2048"]),
        ("rsa -pkeyopt rsa_keygen_bits:2048", "-days -1 -extfile names", true, &["has expired", "replace it"]),
    ] {
        use_certificate(&mut server, issue(&authority, key, arguments)).await;
        let with = |mode: &str| url("r:p", "127.0.0.1", server.port(), &format!("sslmode={mode}"));
        for mode in ["prefer", "require", "require&channel_binding=disable"] {
            assert_eq!(outcome(&with(mode)).await, "tls", "{key} {arguments}: {mode}");
        }
        let bound = if is_bound { "tls" } else { "auth" };
        assert_eq!(outcome(&with("require&channel_binding=require")).await, bound, "{key} {arguments}");

        for mode in ["require", "verify-ca", "verify-full"] {
            let url = url("r:p", "localhost", server.port(), &format!("sslmode={mode}&{}", roots(&authority.file())));
            assert_eq!(outcome(&url).await, "no tls", "{url}");
            let said = refusal(&url).await;
            for words in fault.iter().chain(&["subject \"database\"", "issuer \""]) {
                assert!(said.contains(words), "{key} {arguments}: {words} is not in {said}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_named() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let stranger = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let mut server = tls_server(Options::new(), authority.sign("db.internal")).await;
    let ours = roots(&authority.file());
    let of = |host: &str, roots: &str| url("postgres", host, server.port(), &format!("sslmode=verify-full&{roots}"));
    for (url, words) in [
        (of("localhost", &roots(&stranger.file())), &["not from a trusted authority", "sslrootcert"]),
        (of("localhost", &ours), &["not for localhost", "db.internal"]),
        (of("127.0.0.1", &ours), &["not for 127.0.0.1", "db.internal"]),
    ] {
        let said = refusal(&url).await;
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
    }
    std::fs::write(authority.dir.path().join("version3"), "basicConstraints=CA:FALSE").unwrap();
    let extensions = format!("-days 9 -extfile {}", authority.dir.path().join("version3").display());
    use_certificate(&mut server, issue(&authority, "EC -pkeyopt ec_paramgen_curve:P-256", &extensions)).await;
    let said = refusal(&url("postgres", "localhost", server.port(), &format!("sslmode=verify-full&{ours}"))).await;
    assert!(said.contains("no subjectAltName") && said.contains("sslmode=verify-ca"), "{said}");
}

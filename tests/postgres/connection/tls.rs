//! Certificates: which are trusted under which name, and channel binding with every kind of signature.

use super::{Authority, Signed, outcome, roots, tls_server, url, use_certificate};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
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

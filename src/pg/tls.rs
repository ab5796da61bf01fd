//! The meaning of a URL's `sslmode`, `sslrootcert`, `sslcert` and `sslkey`, as a rustls configuration.
//!
//! | mode | encrypted | verified |
//! | --- | --- | --- |
//! | disable | no | |
//! | allow, prefer | if the server can | nothing |
//! | require | yes | nothing; with `sslrootcert` as verify-ca |
//! | verify-ca | yes | the chain |
//! | verify-full | yes | the chain and the host name |
//!
//! Without `sslrootcert`, `verify-*` trusts the Mozilla roots (`webpki`); libpq looks for a file in the home
//! directory. Nor does it use a client certificate from there.

use super::client_certificate::{self, ClientCertificateError};
use super::server_certificate::{RootFileError, Roots, Trust, Verifier};
use super::{ClientCertificate, PgUrl, SslMode, SslRoots};
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, OtherError, SignatureScheme};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a URL gives no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    RootFile(#[from] RootFileError),
    #[error(transparent)]
    ClientCertificate(#[from] ClientCertificateError),
    /// rustls or the platform's certificate store failed.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] Error),
}

/// The TLS configuration of one attempt to connect.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    is_unproven: Arc<AtomicBool>,
    asks_for_certificate: Arc<AtomicBool>,
}

impl Tls {
    /// Whether the server asked for a client certificate.
    pub(crate) fn asks_for_certificate(&self) -> bool {
        self.asks_for_certificate.load(Ordering::Relaxed)
    }

    /// Whether the server did not prove that it has its certificate's key, because the key's kind is not supported.
    /// Channel binding would then prove nothing: any server can send that certificate.
    pub(crate) fn is_unproven(&self) -> bool {
        self.is_unproven.load(Ordering::Relaxed)
    }
}

/// The TLS configuration of a URL; `None` for `sslmode=disable`. Reads the files that the URL names, or the platform's
/// store.
pub(crate) fn client_config(url: &PgUrl) -> Result<Option<Tls>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = match (url.ssl_mode, &url.ssl_roots) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, SslRoots::Default) => Trust::Any,
        (SslMode::Require | SslMode::VerifyCa, roots) => Trust::Chain(Roots::load(roots)?),
        (SslMode::VerifyFull, SslRoots::System) => {
            Trust::System(rustls_platform_verifier::Verifier::new(provider.clone())?)
        }
        (SslMode::VerifyFull, roots) => Trust::ChainAndName(Roots::load(roots)?),
    };
    let is_unproven = Arc::new(AtomicBool::new(false));
    let verifier = Arc::new(Verifier::new(trust, provider.clone(), is_unproven.clone()));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let certificate =
        url.client_certificate.as_ref().map(|files| client_certificate::load(files, &provider)).transpose()?;
    let asks_for_certificate = Arc::new(AtomicBool::new(false));
    let was_asked = asks_for_certificate.clone();
    let config = builder.with_client_cert_resolver(Arc::new(Resolver { certificate, was_asked }));
    Ok(Some(Tls { config: Arc::new(config), is_unproven, asks_for_certificate }))
}

/// Answers a server that asks for a client certificate, and records that it asked.
#[derive(Debug)]
struct Resolver {
    certificate: Option<SingleCertAndKey>,
    was_asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        self.certificate.as_ref().and_then(|certificate| ResolvesClientCert::resolve(certificate, authorities, schemes))
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

/// Why a connection failed over TLS, with the remedy.
pub(super) fn explain(url: &PgUrl, error: &Error) -> String {
    use AlertDescription::*;
    match (error, &url.client_certificate) {
        (Error::InvalidCertificate(CertificateError::Other(OtherError(refused))), _) => refused.to_string(),
        (Error::AlertReceived(alert), Some(ClientCertificate { certificate, .. })) => {
            let reason = match alert {
                CertificateExpired => "it has expired, or is not valid yet: replace it",
                CertificateRevoked => "it is revoked: replace it",
                UnknownCA => "it is not from an authority in the server's ssl_ca_file: replace it, or correct that file",
                DecryptError => "the authority in the server's ssl_ca_file did not sign it: replace it, or correct that file",
                BadCertificate | UnsupportedCertificate | CertificateUnknown | AccessDenied => {
                    "see the server's log, and replace it"
                }
                _ => return format!("{error}; see the server's log"),
            };
            format!("the server refuses the client certificate in {certificate:?} (sslcert): {reason}")
        }
        (Error::AlertReceived(CertificateRequired), None) => {
            "the server requires a client certificate: set sslcert and sslkey".to_owned()
        }
        (Error::AlertReceived(HandshakeFailure), None) => {
            "the server refuses the handshake: it has no TLS version or cipher in common with users-sync, or requires a client certificate (set sslcert and sslkey)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(query: &str) -> Result<bool, String> {
        let url = PgUrl::parse(&format!("postgres://u@h/db?{query}")).expect(query);
        client_config(&url).map(|config| config.is_some()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_mode_but_disable_has_a_configuration() {
        assert_eq!(config("sslmode=disable"), Ok(false));
        for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
            assert_eq!(config(&format!("sslmode={mode}")), Ok(true), "{mode}");
        }
        assert_eq!(config("sslmode=require&sslrootcert=webpki"), Ok(true));
    }

    #[test]
    fn a_root_file_that_cannot_be_used_is_named() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        for path in [file.path(), Path::new("/nonexistent/ca.pem")] {
            let error = config(&format!("sslmode=require&sslrootcert={}", path.display())).expect_err("refused");
            assert!(error.contains(&path.display().to_string()) && error.contains("sslrootcert"), "{error}");
        }
    }
}

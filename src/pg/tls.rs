//! The meaning of a URL's `sslmode` and `sslrootcert`, as a rustls configuration.
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
//! directory. Host names match subjectAltName only. Client certificates are not supported. Every mode
//! verifies the handshake's signature: without it, channel binding would prove nothing.

use super::{PgUrl, SslMode, SslRoots};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a URL gives no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The root file cannot be opened, or is not PEM.
    #[error("cannot read the root certificates in {path:?} (sslrootcert): {reason}")]
    RootFile {
        /// The path in `sslrootcert`.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// rustls or the platform's certificate store failed.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] Error),
}

/// The TLS configuration of a URL; `None` for `sslmode=disable`. Reads the root file or the platform's store.
pub(crate) fn client_config(url: &PgUrl) -> Result<Option<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = match (url.ssl_mode, &url.ssl_roots) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, SslRoots::Default) => Trust::Any,
        (SslMode::Require | SslMode::VerifyCa, roots) => Trust::Chain(Roots::load(roots)?),
        (SslMode::VerifyFull, SslRoots::System) => {
            let verifier = Arc::new(rustls_platform_verifier::Verifier::new(provider.clone())?);
            return Ok(Some(build(provider, verifier)?));
        }
        (SslMode::VerifyFull, roots) => Trust::ChainAndName(Roots::load(roots)?),
    };
    let verifier = Arc::new(Verifier { trust, provider: provider.clone() });
    Ok(Some(build(provider, verifier)?))
}

fn build(provider: Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, Error> {
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    /// The file's certificates, for a server whose own certificate is among them.
    pinned: Vec<CertificateDer<'static>>,
}

impl Roots {
    fn load(roots: &SslRoots) -> Result<Roots, TlsError> {
        let mut store = RootCertStore::empty();
        let mut pinned = Vec::new();
        match roots {
            // A URL accepts `system` only with verify-full, which is handled separately.
            SslRoots::Default | SslRoots::Webpki | SslRoots::System => {
                store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            SslRoots::File(path) => {
                pinned = read_pem(path)?;
                let (added, _) = store.add_parsable_certificates(pinned.iter().cloned());
                if added == 0 {
                    let reason = "it contains no usable root certificate".to_owned();
                    return Err(TlsError::RootFile { path: path.clone(), reason });
                }
            }
        }
        Ok(Roots { store, pinned })
    }
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::RootFile { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))
}

#[derive(Debug)]
enum Trust {
    Any,
    Chain(Roots),
    ChainAndName(Roots),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify_chain(
        &self,
        roots: &Roots,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, intermediates, now, algorithms) {
            // The self-signed server certificate of the manual's example is also an authority, which webpki
            // rejects for a server. As in libpq, it is accepted if the root file holds it; its dates have
            // been checked.
            Err(error) if is_authority(&error) && roots.pinned.contains(certificate) => Ok(()),
            verdict => verdict,
        }
    }
}

fn is_authority(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(reason)) if reason.to_string() == "CaUsedAsEndEntity")
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Any => {}
            Trust::Chain(roots) => self.verify_chain(roots, end_entity, intermediates, now)?,
            Trust::ChainAndName(roots) => {
                self.verify_chain(roots, end_entity, intermediates, now)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

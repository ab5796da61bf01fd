//! Judges a server's certificate: whether it is trusted, and why not.
//!
//! Host names match subjectAltName only. Every mode verifies the handshake's signature where the key's kind is
//! supported: without it, channel binding would prove nothing. A mode that verifies nothing else also accepts other
//! keys, as libpq does, and there is no channel binding then.

use super::SslRoots;
use super::certificate::{Certificate, PublicKey};
use super::regular_file::open_regular;
use jiff::Timestamp;
use rustls::CertificateError as Reason;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the signatures of ring have in common: it verifies RSA keys of these lengths only.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Schemes of keys that are not supported. They are offered all the same: a server that has such a key then sends its
/// certificate, so that an error can name it.
const OTHER_SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
    // RSASSA-PSS with keys that are restricted to it (RFC 8446, section 4.2.3).
    SignatureScheme::Unknown(0x0809),
    SignatureScheme::Unknown(0x080A),
    SignatureScheme::Unknown(0x080B),
];

/// The root file cannot be opened, is not PEM, or is empty.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the root certificates in {path:?} (sslrootcert): {reason}")]
pub(crate) struct RootFileError {
    path: PathBuf,
    reason: String,
}

/// The authorities that may have signed a server's certificate.
#[derive(Debug)]
pub(super) struct Roots {
    store: RootCertStore,
    /// The file's certificates, for a server whose own certificate is among them.
    pinned: Vec<CertificateDer<'static>>,
}

impl Roots {
    pub(super) fn load(roots: &SslRoots) -> Result<Roots, RootFileError> {
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
                    return Err(RootFileError { path: path.clone(), reason });
                }
            }
        }
        Ok(Roots { store, pinned })
    }
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, RootFileError> {
    let wrong = |reason: String| RootFileError { path: path.to_owned(), reason };
    let mut text = Vec::new();
    open_regular(path).and_then(|mut file| file.read_to_end(&mut text)).map_err(|error| wrong(error.to_string()))?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))
}

/// What makes a server's certificate acceptable.
#[derive(Debug)]
pub(super) enum Trust {
    Any,
    Chain(Roots),
    ChainAndName(Roots),
    /// The platform decides.
    System(rustls_platform_verifier::Verifier),
}

/// Why a certificate is refused, with its names and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    is_unproven: Arc<AtomicBool>,
}

/// What a handshake's signature says about the certificate's key.
enum Proof {
    /// The server has the key.
    Valid,
    /// The signature is wrong.
    Invalid,
    /// The key or the scheme is not supported.
    Unsupported,
}

impl Verifier {
    /// Sets `is_unproven` during a handshake whose signature cannot be verified.
    pub(super) fn new(trust: Trust, provider: Arc<CryptoProvider>, is_unproven: Arc<AtomicBool>) -> Self {
        Verifier { trust, provider, is_unproven }
    }

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
            Err(error) if other_reason(&error) == "CaUsedAsEndEntity" && roots.pinned.contains(certificate) => Ok(()),
            verdict => verdict,
        }
    }

    fn prove(&self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Proof {
        let Some(key) = Certificate::parse(certificate).and_then(|certificate| certificate.key()) else {
            return Proof::Unsupported;
        };
        if key.rsa_bits().is_some_and(|bits| !RSA_BITS.contains(&bits)) {
            return Proof::Unsupported;
        }
        let schemes = self.provider.signature_verification_algorithms.mapping;
        let Some((_, algorithms)) = schemes.iter().find(|(scheme, _)| *scheme == signed.scheme) else {
            return Proof::Unsupported;
        };
        let PublicKey { algorithm: kind, key } = key;
        let mut suitable =
            algorithms.iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == kind).peekable();
        if suitable.peek().is_none() {
            return Proof::Unsupported;
        }
        let is_valid = suitable.any(|algorithm| algorithm.verify_signature(key, message, signed.signature()).is_ok());
        if is_valid { Proof::Valid } else { Proof::Invalid }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match (self.prove(message, certificate, signed), &self.trust) {
            (Proof::Valid, _) => {}
            (Proof::Invalid, _) => return Err(Error::InvalidCertificate(Reason::BadSignature)),
            (Proof::Unsupported, Trust::Any) => self.is_unproven.store(true, Ordering::Relaxed),
            (Proof::Unsupported, _) => {
                let reason = "has a key of a kind that is not supported: issue one with an RSA key of 2048 to 8192 bits, \
                    with ECDSA on P-256 or P-384, or with Ed25519";
                return Err(refused(certificate, reason));
            }
        }
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = match &self.trust {
            Trust::Any => Ok(()),
            Trust::Chain(roots) => self.verify_chain(roots, end_entity, intermediates, now),
            Trust::ChainAndName(roots) => self
                .verify_chain(roots, end_entity, intermediates, now)
                .and_then(|()| verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)),
            Trust::System(verifier) => verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(|_: ServerCertVerified| ()),
        };
        verdict.map_err(|error| refused(end_entity, &explain(&error, end_entity)))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.3 has no signatures with PKCS #1 padding or SHA-1 (RFC 8446, section 4.2.3).
        use SignatureScheme::{
            ECDSA_SHA1_Legacy, RSA_PKCS1_SHA1, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        };
        if matches!(
            signed.scheme,
            RSA_PKCS1_SHA1 | RSA_PKCS1_SHA256 | RSA_PKCS1_SHA384 | RSA_PKCS1_SHA512 | ECDSA_SHA1_Legacy
        ) {
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.provider.signature_verification_algorithms.supported_schemes();
        schemes.extend(OTHER_SCHEMES);
        schemes
    }
}

/// webpki's reason, if rustls has no variant for it.
fn other_reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(Reason::Other(reason)) => reason.to_string(),
        _ => String::new(),
    }
}

/// The first names of a certificate, which may have thousands.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn refused(certificate: &CertificateDer<'_>, reason: &str) -> Error {
    let names = Certificate::parse(certificate).map_or_else(|| "malformed".to_owned(), |parsed| parsed.to_string());
    let text = format!("the server's certificate ({names}) {reason}");
    Error::InvalidCertificate(Reason::Other(OtherError(Arc::new(Refused(text)))))
}

/// Completes "the server's certificate ...".
fn explain(error: &Error, certificate: &CertificateDer<'_>) -> String {
    const EXPIRED: &str = "replace it at the server";
    let date = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |date| date.to_string())
    };
    let Error::InvalidCertificate(reason) = error else { return format!("cannot be verified: {error}") };
    match reason {
        Reason::Expired => format!("has expired: {EXPIRED}"),
        Reason::ExpiredContext { not_after, .. } => format!("expired at {}: {EXPIRED}", date(not_after)),
        Reason::NotValidYet => "is not valid yet: check the clocks of both machines".to_owned(),
        Reason::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}: check the clocks of both machines", date(not_before))
        }
        Reason::UnknownIssuer => {
            "is not from a trusted authority: set sslrootcert to the authority's file".to_owned()
        }
        Reason::BadSignature => "is not signed by the authority that it names, or that authority's key is not supported \
             (RSA with fewer than 2048 bits): set sslrootcert to the right file, or issue it again"
            .to_owned(),
        Reason::NotValidForNameContext { expected, presented } if presented.is_empty() => format!(
            "names no host (it has no subjectAltName): issue one with subjectAltName for {}, or set sslmode=verify-ca \
             with the file of a private authority in sslrootcert",
            expected.to_str()
        ),
        Reason::NotValidForNameContext { expected, presented } => format!(
            "is not for {}, but for {}: connect to a name that it has, or issue one for this name",
            expected.to_str(),
            some_of(presented)
        ),
        Reason::NotValidForName => {
            "is not for this host: connect to a name that it has, or issue one for this name".to_owned()
        }
        Reason::InvalidPurpose | Reason::InvalidPurposeContext { .. } => {
            "is not for a server: issue one whose extendedKeyUsage includes serverAuth".to_owned()
        }
        Reason::UnsupportedSignatureAlgorithmContext { .. }
        | Reason::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed with an algorithm that is not supported (such as SHA-1, or ECDSA on P-521): issue one that is signed \
             with SHA-256 and RSA, ECDSA on P-256 or P-384, or Ed25519"
                .to_owned()
        }
        Reason::Other(other) => match &*other.to_string() {
            "UnsupportedCertVersion" => {
                let version = Certificate::parse(certificate).map_or(0, |parsed| parsed.version);
                format!("is of X.509 version {version}: issue one of version 3 (openssl x509 -req with -extfile)")
            }
            "CaUsedAsEndEntity" => {
                "is that of an authority: set sslrootcert to this certificate, or issue one for the server".to_owned()
            }
            _ => format!("cannot be verified: {error}"),
        },
        _ => format!("cannot be verified: {error}"),
    }
}

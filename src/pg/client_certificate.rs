//! The client's certificate and key, from the files that `sslcert` and `sslkey` name, under libpq's rules.
//!
//! The files are read for each attempt to connect, so a renewed certificate needs no restart. No error repeats a
//! part of the key or of its password.

use super::certificate::public_key;
use super::regular_file::open_regular;
use super::{ClientCertificate, Secret};
use pkcs8::{EncryptedPrivateKeyInfoRef, Error as Pkcs8Error, pkcs5};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longer files hold no certificate or key.
const MAX_FILE: u64 = 1 << 20;

/// Why `sslcert`, `sslkey` and `sslpassword` give no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientCertificateError {
    #[error("cannot read the client certificate in {path:?} (sslcert): {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("cannot read the key in {path:?} (sslkey): {reason}")]
    Key { path: PathBuf, reason: String },
    #[error(
        "the key in {path:?} (sslkey) can be used by others: its mode is {mode:04o}; run chmod 0600, or chmod 0640 if \
         root owns the file"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key in {path:?} (sslkey) is encrypted: set sslpassword to its password")]
    NoPassword { path: PathBuf },
    #[error("the key in {path:?} (sslkey) cannot be decrypted: correct sslpassword")]
    WrongPassword { path: PathBuf },
    #[error(
        "the key in {path:?} (sslkey) is encrypted in a way that is not supported: convert it with openssl pkcs8 -topk8 \
         -v2 aes-256-cbc"
    )]
    Encryption { path: PathBuf },
    #[error(
        "the key in {path:?} (sslkey) is of a kind that is not supported: use RSA with 2048 to 8192 bits, ECDSA on P-256 \
         or P-384, or Ed25519"
    )]
    Kind { path: PathBuf },
    #[error(
        "the key in {key:?} (sslkey) does not belong to the certificate in {certificate:?} (sslcert): name the key that \
         the certificate was issued for"
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
}

/// Reads certificate and key.
pub(super) fn load(
    files: &ClientCertificate,
    provider: &CryptoProvider,
) -> Result<SingleCertAndKey, ClientCertificateError> {
    let chain = read_chain(&files.certificate)?;
    let key = read_key(&files.key, files.password.as_ref())?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| ClientCertificateError::Kind { path: files.key.clone() })?;
    // rustls compares them as well, but fails over a certificate of version 1, as OpenSSL 3.0 issues them.
    let of_certificate = chain.first().and_then(|leaf| public_key(leaf));
    if key.public_key().is_some_and(|of_key| of_certificate != Some(&*of_key)) {
        let (certificate, key) = (files.certificate.clone(), files.key.clone());
        return Err(ClientCertificateError::Mismatch { certificate, key });
    }
    Ok(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

/// The client's certificate, and after it those of its authorities.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientCertificateError> {
    let wrong = |reason: String| ClientCertificateError::Certificate { path: path.to_owned(), reason };
    let text = open_regular(path).and_then(|file| read(&file)).map_err(|error| wrong(error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|_| wrong("it is not a valid PEM file".to_owned()))?;
    match chain.first() {
        None => Err(wrong("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned())),
        Some(leaf) if public_key(leaf).is_none() => Err(wrong("its first certificate is malformed".to_owned())),
        Some(_) => Ok(chain),
    }
}

/// A PKCS #1, PKCS #8 or SEC 1 key in PEM or DER form.
fn read_key(path: &Path, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, ClientCertificateError> {
    let wrong = |reason: &str| ClientCertificateError::Key { path: path.to_owned(), reason: reason.to_owned() };
    let failed = |error: io::Error| wrong(&error.to_string());
    let file = open_regular(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if is_exposed(metadata.uid(), metadata.mode()) {
        return Err(ClientCertificateError::Exposed { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let content = read(&file).map_err(failed)?;
    let text = String::from_utf8_lossy(&content);
    if !text.contains("-----BEGIN") {
        return match EncryptedPrivateKeyInfoRef::try_from(&*content) {
            Ok(encrypted) => decrypt(path, &encrypted, password),
            Err(_) => PrivateKeyDer::try_from(content).map_err(|_| wrong("it holds no private key")),
        };
    }
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        let relabelled = text.replace(" ENCRYPTED PRIVATE KEY-----", " PRIVATE KEY-----");
        let der = PrivatePkcs8KeyDer::from_pem_slice(relabelled.as_bytes());
        let der = der.map_err(|_| wrong("it is not a valid PEM file"))?;
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(der.secret_pkcs8_der())
            .map_err(|_| ClientCertificateError::Encryption { path: path.to_owned() })?;
        return decrypt(path, &encrypted, password);
    }
    // OpenSSL's form of PKCS #1 and SEC 1 keys. Its key derivation is a single round of MD5.
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(ClientCertificateError::Encryption { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| wrong("it holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"))
}

fn decrypt(
    path: &Path,
    encrypted: &EncryptedPrivateKeyInfoRef<'_>,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, ClientCertificateError> {
    let path = path.to_owned();
    let Some(Secret(password)) = password else { return Err(ClientCertificateError::NoPassword { path }) };
    match encrypted.decrypt(password) {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        // Some wrong passwords give bytes that are well padded and no key.
        Err(Pkcs8Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | Pkcs8Error::Asn1(_)) => {
            Err(ClientCertificateError::WrongPassword { path })
        }
        Err(_) => Err(ClientCertificateError::Encryption { path }),
    }
}

/// libpq's rule (manual: "Client Certificates"): only the owner may read the key. Where root owns it, its group may too,
/// so that an administrator can give it to a service.
fn is_exposed(owner: u32, mode: u32) -> bool {
    mode & if owner == 0 { 0o037 } else { 0o077 } != 0
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

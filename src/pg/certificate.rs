//! What users-sync reads of an X.509 certificate (RFC 5280): its public key, the names for an error, and the
//! `tls-server-end-point` channel binding (RFC 5929, section 4.1), a hash of the certificate by the hash function of
//! its own signature. Pure; accepts certificates that webpki does not parse, such as those of version 1.

use ring::digest::{self, Algorithm};
use std::fmt;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0] EXPLICIT`: the version of a TBSCertificate. Version 1 has none.
const VERSION: u8 = 0xA0;
/// `[0] EXPLICIT`: the hash function in RSASSA-PSS-params (RFC 4055).
const PSS_HASH: u8 = 0xA0;

/// 1.2.840.113549.1.1: RSA signatures (PKCS #1). One more byte selects the signature.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// 1.2.840.10045.4.3: ECDSA with a SHA-2 hash.
const ECDSA_SHA2: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];
/// 1.2.840.10045.4.1: ECDSA with SHA-1.
const ECDSA_SHA1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];
/// 2.16.840.1.101.3.4.2: the hash functions themselves.
const NIST_HASH: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
/// 1.3.14.3.2.26: SHA-1 itself.
const SHA1: &[u8] = &[0x2B, 0x0E, 0x03, 0x02, 0x1A];

/// 1.2.840.113549.1.1.1: an RSA key.
const RSA_KEY: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1: a key on an elliptic curve.
const EC_KEY: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
/// 1.2.840.10045.3.1.7.
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
/// 1.3.132.0.34.
const P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
/// 1.3.132.0.35.
const P521: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x23];
/// 1.3.101.112.
const ED25519: &[u8] = &[0x2B, 0x65, 0x70];
/// 1.3.101.113.
const ED448: &[u8] = &[0x2B, 0x65, 0x71];
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The fields of a certificate that are read.
pub(super) struct Certificate<'a> {
    /// 1, 2 or 3.
    pub(super) version: u8,
    issuer: &'a [u8],
    subject: &'a [u8],
    /// SubjectPublicKeyInfo.
    public_key: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// `None` if it is malformed.
    pub(super) fn parse(certificate: &'a [u8]) -> Option<Certificate<'a>> {
        let inside = element(certificate, SEQUENCE)?.content;
        let fields = element(inside, SEQUENCE)?.content;
        let (version, fields) = match element(fields, VERSION) {
            Some(tagged) => (element(tagged.content, INTEGER)?.content.last()?.checked_add(1)?, tagged.rest),
            None => (1, fields),
        };
        let serial = element(fields, INTEGER)?;
        let signature = element(serial.rest, SEQUENCE)?;
        let issuer = element(signature.rest, SEQUENCE)?;
        let validity = element(issuer.rest, SEQUENCE)?;
        let subject = element(validity.rest, SEQUENCE)?;
        let public_key = element(subject.rest, SEQUENCE)?.whole;
        Some(Certificate { version, issuer: issuer.content, subject: subject.content, public_key })
    }

    pub(super) fn key(&self) -> Option<PublicKey<'a>> {
        PublicKey::parse(self.public_key)
    }
}

/// For an error. Names come from the network and are escaped.
impl fmt::Display for Certificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name| common_name(name).unwrap_or_default();
        write!(f, "subject {:?}, issuer {:?}, ", name(self.subject), name(self.issuer))?;
        match self.key() {
            Some(key) => write!(f, "{key}"),
            None => f.write_str("malformed key"),
        }
    }
}

/// The public key of a certificate (SubjectPublicKeyInfo); `None` if the certificate is malformed.
pub(super) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    Certificate::parse(certificate).map(|certificate| certificate.public_key)
}

/// The last common name of a Name, which is the most specific one.
fn common_name(name: &[u8]) -> Option<String> {
    /// The longest common name (RFC 5280, ub-common-name).
    const MAX_NAME: usize = 64;
    let mut found = None;
    let mut rest = name;
    while let Some(set) = element(rest, SET) {
        rest = set.rest;
        let Some(attribute) = element(set.content, SEQUENCE) else { continue };
        let Some(kind) = element(attribute.content, OBJECT_IDENTIFIER) else { continue };
        if kind.content == COMMON_NAME {
            let (_, value) = first(kind.rest)?;
            found = Some(String::from_utf8_lossy(value.content).chars().take(MAX_NAME).collect());
        }
    }
    found
}

/// SubjectPublicKeyInfo ::= SEQUENCE { algorithm SEQUENCE { OID, parameters }, subjectPublicKey BIT STRING }
pub(super) struct PublicKey<'a> {
    /// The content of AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    /// The content of the bit string.
    pub(super) key: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn parse(public_key: &'a [u8]) -> Option<PublicKey<'a>> {
        let inside = element(public_key, SEQUENCE)?.content;
        let algorithm = element(inside, SEQUENCE)?;
        // The first byte is the number of unused bits, which is 0.
        let (_, key) = element(algorithm.rest, BIT_STRING)?.content.split_first()?;
        Some(PublicKey { algorithm: algorithm.content, key })
    }

    /// The length of an RSA key's modulus in bits; `None` for other keys.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        if element(self.algorithm, OBJECT_IDENTIFIER)?.content != RSA_KEY {
            return None;
        }
        let modulus = element(element(self.key, SEQUENCE)?.content, INTEGER)?.content;
        let start = modulus.iter().position(|byte| *byte != 0)?;
        Some((modulus.len() - start) * 8 - modulus[start].leading_zeros() as usize)
    }
}

impl fmt::Display for PublicKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bits) = self.rsa_bits() {
            return write!(f, "RSA key of {bits} bits");
        }
        let Some(kind) = element(self.algorithm, OBJECT_IDENTIFIER) else { return f.write_str("malformed key") };
        let curve = element(kind.rest, OBJECT_IDENTIFIER).map(|curve| curve.content);
        f.write_str(match (kind.content, curve) {
            (EC_KEY, Some(P256)) => "ECDSA key on P-256",
            (EC_KEY, Some(P384)) => "ECDSA key on P-384",
            (EC_KEY, Some(P521)) => "ECDSA key on P-521",
            (EC_KEY, _) => "ECDSA key on another curve",
            (ED25519, _) => "Ed25519 key",
            (ED448, _) => "Ed448 key",
            _ => "key of another kind",
        })
    }
}

/// The binding data; `None` if the signature has no hash function of its own (Ed25519) or an unsupported one.
pub(crate) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_hash(certificate)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, parameters }, ... }
fn signature_hash(certificate: &[u8]) -> Option<&'static Algorithm> {
    let inside = element(certificate, SEQUENCE)?.content;
    let after_tbs = element(inside, SEQUENCE)?.rest;
    let algorithm = element(after_tbs, SEQUENCE)?.content;
    let Element { content: oid, rest: parameters, .. } = element(algorithm, OBJECT_IDENTIFIER)?;
    match (oid.split_last()?, oid) {
        // RFC 5929 replaces MD5 (4) and SHA-1 (5) by SHA-256.
        ((4 | 5 | 11, RSA), _) => Some(&digest::SHA256),
        ((12, RSA), _) => Some(&digest::SHA384),
        ((13, RSA), _) => Some(&digest::SHA512),
        ((10, RSA), _) => pss_hash(parameters),
        ((2, ECDSA_SHA2), _) | (_, ECDSA_SHA1) => Some(&digest::SHA256),
        ((3, ECDSA_SHA2), _) => Some(&digest::SHA384),
        ((4, ECDSA_SHA2), _) => Some(&digest::SHA512),
        _ => None,
    }
}

fn pss_hash(parameters: &[u8]) -> Option<&'static Algorithm> {
    let inside = element(parameters, SEQUENCE)?.content;
    // Absent parameters mean SHA-1, which RFC 5929 replaces by SHA-256.
    let Some(tagged) = element(inside, PSS_HASH) else { return Some(&digest::SHA256) };
    let algorithm = element(tagged.content, SEQUENCE)?.content;
    let oid = element(algorithm, OBJECT_IDENTIFIER)?.content;
    match (oid.split_last()?, oid) {
        ((1, NIST_HASH), _) | (_, SHA1) => Some(&digest::SHA256),
        ((2, NIST_HASH), _) => Some(&digest::SHA384),
        ((3, NIST_HASH), _) => Some(&digest::SHA512),
        _ => None,
    }
}

/// The first element of a DER text.
struct Element<'a> {
    content: &'a [u8],
    /// The element with its tag and length.
    whole: &'a [u8],
    /// What follows the element.
    rest: &'a [u8],
}

/// Splits `der` after its first element. `None` if the tag differs.
fn element(der: &[u8], tag: u8) -> Option<Element<'_>> {
    first(der).filter(|(found, _)| *found == tag).map(|(_, element)| element)
}

/// The first element of `der` with its tag.
fn first(der: &[u8]) -> Option<(u8, Element<'_>)> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let whole = &der[..der.len() - rest.len()];
    Some((tag, Element { content, whole, rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(parts: &[&[u8]]) -> Vec<u8> {
        wrap(SEQUENCE, &parts.concat())
    }

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut der = vec![tag];
        match content.len() {
            short @ 0..=0x7F => der.push(short as u8),
            long => der.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        der.extend(content);
        der
    }

    /// Builds the outline of a certificate with this signature algorithm. The hash's length tells which
    /// function was used.
    fn check(oid: &[&[u8]], parameters: &[u8], expected: Option<usize>) {
        let algorithm = sequence(&[&wrap(OBJECT_IDENTIFIER, &oid.concat()), parameters]);
        let certificate = sequence(&[&sequence(&[&[0x02; 300]]), &algorithm, &[0x03, 0x01, 0x00]]);
        assert_eq!(tls_server_end_point(&certificate).map(|hash| hash.len()), expected, "{oid:?}");
    }

    #[test]
    fn the_hash_is_that_of_the_certificates_own_signature() {
        check(&[RSA, &[5]], &[], Some(32));
        check(&[RSA, &[11]], &[5, 0], Some(32));
        check(&[RSA, &[12]], &[5, 0], Some(48));
        check(&[RSA, &[13]], &[5, 0], Some(64));
        check(&[ECDSA_SHA1], &[], Some(32));
        check(&[ECDSA_SHA2, &[2]], &[], Some(32));
        check(&[ECDSA_SHA2, &[3]], &[], Some(48));
        check(&[ECDSA_SHA2, &[4]], &[], Some(64));
        // Ed25519 signatures have no separate hash function.
        check(&[&[0x2B, 0x65, 0x70]], &[], None);
    }

    #[test]
    fn the_length_of_an_rsa_key_is_that_of_its_modulus() {
        let check = |modulus: &[u8], expected: usize, text: &str| {
            let key = sequence(&[&wrap(INTEGER, modulus), &wrap(INTEGER, &[1, 0, 1])]);
            let algorithm = sequence(&[&wrap(OBJECT_IDENTIFIER, RSA_KEY), &[5, 0]]);
            let public = sequence(&[&algorithm, &wrap(BIT_STRING, &[&[0], &key[..]].concat())]);
            let key = PublicKey::parse(&public).unwrap();
            assert_eq!((key.rsa_bits(), key.to_string()), (Some(expected), text.to_owned()));
        };
        check(&[&[0, 0x80], &[1; 127][..]].concat(), 1024, "RSA key of 1024 bits");
        check(&[&[0x7F], &[1; 127][..]].concat(), 1023, "RSA key of 1023 bits");
        check(&[&[0, 0xFF], &[1; 255][..]].concat(), 2048, "RSA key of 2048 bits");
    }

    #[test]
    fn rsa_pss_names_its_hash_in_the_parameters() {
        let hash = |last: u8| {
            let oid = wrap(OBJECT_IDENTIFIER, &[NIST_HASH, &[last]].concat());
            sequence(&[&wrap(PSS_HASH, &sequence(&[&oid]))])
        };
        check(&[RSA, &[10]], &sequence(&[]), Some(32));
        check(&[RSA, &[10]], &hash(1), Some(32));
        check(&[RSA, &[10]], &hash(2), Some(48));
        check(&[RSA, &[10]], &hash(3), Some(64));
        check(&[RSA, &[10]], &hash(4), None);
    }

    #[test]
    fn a_truncated_certificate_has_no_channel_binding() {
        let whole = sequence(&[&sequence(&[]), &sequence(&[&wrap(OBJECT_IDENTIFIER, &[RSA, &[11]].concat())])]);
        assert!(tls_server_end_point(&whole).is_some());
        for end in 0..whole.len() {
            assert!(tls_server_end_point(&whole[..end]).is_none(), "{end}");
        }
    }
}

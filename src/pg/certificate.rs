//! The `tls-server-end-point` channel binding (RFC 5929, section 4.1): a hash of the server's certificate, by
//! the hash function of the certificate's own signature. Pure; parses only the parts of the DER that this
//! needs.

use ring::digest::{self, Algorithm};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
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
    let Element { content: oid, rest: parameters } = element(algorithm, OBJECT_IDENTIFIER)?;
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
    /// What follows the element.
    rest: &'a [u8],
}

/// Splits `der` after its first element. `None` if the tag differs.
fn element(der: &[u8], tag: u8) -> Option<Element<'_>> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(Element { content, rest })
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

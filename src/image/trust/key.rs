//! Public keys as `cosign generate-key-pair` and openssl write them, and what they vouch for.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use crate::image::content::sha256;

/// A public key of a policy.
pub struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    /// What the algorithm takes of it.
    public: Vec<u8>,
    /// Its SubjectPublicKeyInfo.
    pub der: Vec<u8>,
    /// SHA-256 of that.
    pub fingerprint: String,
}

impl Key {
    /// The one key of a PEM file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut found = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
        match (found.next(), found.next()) {
            (Some(Ok(der)), None) => Self::from_der(&der),
            (Some(Ok(_)), Some(_)) => Err("there is more than one key in it".into()),
            (Some(Err(error)), _) => Err(format!("it is not PEM: {error}")),
            (None, _) => Err("there is no PUBLIC KEY in it".into()),
        }
    }

    /// A SubjectPublicKeyInfo. Source: RFC 5280. Each kind's algorithm identifier has one encoding only.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (info, after) = element(der, SEQUENCE).ok_or("it is not a SubjectPublicKeyInfo")?;
        let known = KINDS.iter().find(|(identifier, _)| info.starts_with(identifier));
        let (identifier, algorithm) = known.ok_or("it is of no supported kind: ECDSA P-256, P-384, Ed25519, RSA")?;
        match element(&info[identifier.len()..], BIT_STRING) {
            // No unused bits, and nothing after it.
            Some(([0, public @ ..], [])) if after.is_empty() => Ok(Self {
                algorithm: *algorithm,
                public: public.to_owned(),
                der: der.to_owned(),
                fingerprint: sha256(der),
            }),
            _ => Err("it is not a SubjectPublicKeyInfo".into()),
        }
    }

    /// Whether this key made `signature` of `message`.
    pub fn made(&self, signature: &[u8], message: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(self.algorithm, &self.public);
        key.verify(message, signature).is_ok()
    }
}

/// Algorithm identifiers, in DER, and how their signatures are verified: cosign hashes with SHA-256 whatever the curve.
/// Sources: RFC 5480, RFC 8410, RFC 3279.
const KINDS: &[(&[u8], &dyn VerificationAlgorithm)] = &[
    (
        b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        &signature::ECDSA_P256_SHA256_ASN1,
    ),
    (
        b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
        &signature::ECDSA_P384_SHA256_ASN1,
    ),
    (b"\x30\x05\x06\x03\x2b\x65\x70", &signature::ED25519),
    (
        b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
        &signature::RSA_PKCS1_2048_8192_SHA256,
    ),
];

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The content of a DER element, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match der {
        [first, short @ 0..=0x7f, rest @ ..] if *first == tag => (usize::from(*short), rest),
        [first, 0x81, length, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x82, high, low, rest @ ..] if *first == tag => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Of openssl: `genpkey`, `pkey -pubout`, `dgst -sha256 -sign`; for Ed25519 `pkeyutl -sign -rawin`.
    const MADE: [(&str, &str); 4] = [
        (P256, P256_SIGNATURE),
        (P384, P384_SIGNATURE),
        (ED25519, ED25519_SIGNATURE),
        (RSA, RSA_SIGNATURE),
    ];
    const MESSAGE: &[u8] = b"signed by openssl";

    fn decoded(text: &str) -> Vec<u8> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.decode(text).unwrap()
    }

    #[test]
    fn every_kind_of_key_vouches_for_its_own_signatures_only() {
        let keys: Vec<_> = MADE
            .iter()
            .map(|(pem, _)| Key::from_pem(pem.as_bytes()).unwrap())
            .collect();
        for (by, (_, signature)) in MADE.iter().enumerate() {
            let signature = decoded(signature);
            for (of, key) in keys.iter().enumerate() {
                assert_eq!(key.made(&signature, MESSAGE), by == of, "{by} {of}");
                assert!(!key.made(&signature, b"signed by nobody"));
            }
            for at in 0..signature.len() {
                let mut torn = signature.clone();
                torn[at] ^= 1;
                assert!(!keys[by].made(&torn, MESSAGE), "{by}, byte {at}");
            }
        }
    }

    #[test]
    fn what_is_not_one_public_key_is_refused() {
        let two = format!("{P256}{ED25519}");
        let torn = P256.replace("MFkwEwYH", "MFkwEwYI");
        let other_label = P256.replace("PUBLIC", "PRIVATE");
        for (text, why) in [
            ("", "no PUBLIC KEY"),
            ("not PEM", "no PUBLIC KEY"),
            (two.as_str(), "more than one"),
            (torn.as_str(), "supported kind"),
            (other_label.as_str(), "no PUBLIC KEY"),
            (
                "-----BEGIN PUBLIC KEY-----\nMFk=\n-----END PUBLIC KEY-----\n",
                "SubjectPublicKeyInfo",
            ),
        ] {
            let refused = Key::from_pem(text.as_bytes()).err().expect(text);
            assert!(refused.contains(why), "{text:?}: {refused}");
        }
        let whole = SubjectPublicKeyInfoDer::from_pem_slice(P256.as_bytes()).unwrap();
        for length in 0..whole.len() {
            assert!(Key::from_der(&whole[..length]).is_err(), "{length} bytes");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(Key::from_der(&longer).is_err());
    }

    const P256: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEoacgIT9r6GpKMA+hnYdHanW3aq6H
qq0EBmsbeuSqY4t6/M9evfloRxzvFHOTpXwLKqpM8KKSuNveXOu/D6/GfA==
-----END PUBLIC KEY-----
";
    const P256_SIGNATURE: &str =
        "MEMCIFWOsmXmp4NPdK9iA98GV5+EAc0KO/DMpuG4bZ59Mm+5Ah9whqRTBIPP+kXPMj2GQSi/cRmUACW+ipXsUz3K1Hgy";
    const P384: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEEG8W3q+4nyrlU0Hk7htvrugS4BhxXSPV
p02j285tDBIYizlQqwbL1CByiVArUxZPmD3z+6DLEqz2gyKSJZurxpNw9tmvb4IK
PtMynyWUuWnvEh+avt6Ai02E/r0sr1bX
-----END PUBLIC KEY-----
";
    const P384_SIGNATURE: &str = "\
        MGYCMQDXjqtSyXpdhPtrrW6JomRrmbsNG4145lIAmTc9jdm7yDE3xf2xGoMj0Fd+dlWcvuMCMQCeeZ0BNhjp5kcHpPgo54GoOtSJ\
        V8A/ljb21uejdF9ySwq/DqNs13VPpJdbIgCeI9o=";
    const ED25519: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAC1z0AHS2QJmBEPll5PEtYvwYqN4TbC45JAuUYgI9rtQ=
-----END PUBLIC KEY-----
";
    const ED25519_SIGNATURE: &str =
        "q9+z+8SEBhl3kEUrYd6Qddz3c6vVb4kKYZdidHEzCKjAeArEgfw2Xo2lK+d2qK2xvxTfUMHbpM8Skw0JyjrDDA==";
    const RSA: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAt6Sp6kp5g5DUmFnA0pxz
2RP97SZC4SZhaU2KSBsk3+2z6I/8uz4NTh6jrfycXjb1xKyjQ+YBo4+RjCodYsVG
CCVusBjM9pQl1hcbyOPhIkapc3z2nxW8CF31w2aSPo/JMMH4+tBM9MoFXbrC/Ku0
0l7/0FrC2gUkpvTprQCzCKoqbtuwY25N5rGoM7UBAj7WGPt2jA+JKLoWo/vNaD5s
arpiT7Me6gXXE63Oy/Ijbn/IHaDgvUHejb+uMM3rprJgb73neVd3jVJgbftx/cKj
kJHR4xq9ZJsv4XtZTN/2VVlfv2nG8RUGCxCDxkckbeie5mmC+UNE9ArWHVnw95vg
PwIDAQAB
-----END PUBLIC KEY-----
";
    const RSA_SIGNATURE: &str = "\
        JlQ8DAeYOSLEqotg02B01++oDSLo8etvKQ4Vmy8ePdBnEFNElzHCGyKrJTUoJ49JWzujGKw7kRvTcocc4pkOlBGHYWHUHLxIK5oR\
        eIuYIDoXX84ZLKqMyvk4IkKv8v/1WQv/o+oPdp+SghaxwZ1Qolf01kV0R93fEQwB/fN7zrCqi3irNbK6A9kE01Sz3zGP32Cz1ofT\
        8+4XHNeYIG9BSc63zPl88ivFhWNS5mSr5aJ7wHRkxocccYL7ihTve5giLF3ATCJ453M7rAjAoxDY7Fs9Uf5n2R1mwfl9sN+f/3kk\
        P3sd1BO4ixs2B3OCASS4/4s1GTYP4otpDB/urSBuUA==";
}

//! Certificates that an authority (Fulcio) gives to who logs in somewhere, for some minutes: whose key one is, if the
//! authority is the policy's, and the identity.
//!
//! That they were good is asked for the moment of the signature, which the log knows. Whether the certificates are in a
//! log as well is not asked, as in containers/image. Sources: RFC 5280; sigstore/fulcio, "Fulcio OID information".

use std::{fmt, time::Duration};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::{
    Certificate,
    der::{Decode, asn1::Utf8StringRef, oid::ObjectIdentifier},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::key::Key;

/// An authority of a policy, and whom it has to have known.
pub struct Authority {
    /// Where the policy has it from.
    pub name: String,
    pub roots: Vec<CertificateDer<'static>>,
    /// Who the identity was proved to.
    pub issuer: String,
    pub email: String,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} by {}", self.email, self.issuer, self.name)
    }
}

impl Authority {
    /// The key of who holds the first of these certificates, which was good at a time, in seconds since 1970.
    ///
    /// # Errors
    /// Why it is nobody who counts.
    pub fn holder(&self, certificates: &[Vec<u8>], at: u64) -> Result<Key, String> {
        let (leaf, between) = certificates.split_first().ok_or("there is no certificate")?;
        let der = CertificateDer::from(leaf.as_slice());
        let wrong = |why: &dyn fmt::Display| format!("a certificate is not good: {why}");
        let entity = EndEntityCert::try_from(&der).map_err(|error| wrong(&error))?;
        let between: Vec<_> = between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let mut anchors = Vec::new();
        for root in &self.roots {
            if is_valid(root, at).map_err(|why| format!("{}: {why}", self.name))? {
                anchors.push(anchor_from_trusted_cert(root).map_err(|error| format!("{}: {error}", self.name))?);
            }
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let usage = KeyUsage::required(CODE_SIGNING);
        entity
            .verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &between, time, usage, None, None)
            .map_err(|error| wrong(&error))?;
        let read = Certificate::from_der(leaf).map_err(|error| wrong(&error))?;
        self.check_identity(&read)?;
        Key::from_der(&entity.subject_public_key_info()).map_err(|why| wrong(&why))
    }

    fn check_identity(&self, certificate: &Certificate) -> Result<(), String> {
        let issuer = issuer(certificate)?;
        if issuer != self.issuer {
            return Err(format!("a certificate is of issuer {issuer:?}"));
        }
        let names = certificate.tbs_certificate().get_extension::<SubjectAltName>();
        let (_, names) = names
            .map_err(|error| format!("a certificate's names cannot be read: {error}"))?
            .ok_or("a certificate has no names")?;
        let emails: Vec<_> = names.0.iter().filter_map(email).collect();
        match emails.contains(&self.email.as_str()) {
            true => Ok(()),
            false => Err(format!("a certificate is of {emails:?}")),
        }
    }
}

fn email(name: &GeneralName) -> Option<&str> {
    match name {
        GeneralName::Rfc822Name(email) => Some(email.as_str()),
        _ => None,
    }
}

/// Newer certificates have it as a DER string, older ones as mere text; where both are they must say the same.
fn issuer(certificate: &Certificate) -> Result<String, String> {
    let older = extension(certificate, ISSUER)?
        .map(|bytes| std::str::from_utf8(bytes).map(str::to_owned))
        .transpose()
        .map_err(|_| "a certificate's issuer is not UTF-8")?;
    let newer = extension(certificate, ISSUER_V2)?
        .map(|bytes| Utf8StringRef::from_der(bytes).map(|text| text.as_str().to_owned()))
        .transpose()
        .map_err(|error| format!("a certificate's issuer cannot be read: {error}"))?;
    match (older, newer) {
        (Some(older), Some(newer)) if older != newer => {
            Err(format!("a certificate has two issuers, {older:?} and {newer:?}"))
        }
        (older, newer) => newer
            .or(older)
            .ok_or_else(|| "a certificate has no issuer's extension".into()),
    }
}

/// What is in an extension that may be there once.
fn extension(certificate: &Certificate, id: ObjectIdentifier) -> Result<Option<&[u8]>, String> {
    let all = certificate.tbs_certificate().extensions();
    let mut found = all.into_iter().flatten().filter(|extension| extension.extn_id == id);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(format!("a certificate has the extension {id} twice")),
        (one, _) => Ok(one.map(|extension| extension.extn_value.as_bytes())),
    }
}

/// Whether a root, whose time nobody else looks at, was good then.
fn is_valid(root: &CertificateDer<'_>, at: u64) -> Result<bool, String> {
    let certificate = Certificate::from_der(root).map_err(|error| error.to_string())?;
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
    Ok((seconds(&validity.not_before)..=seconds(&validity.not_after)).contains(&at))
}

/// id-kp-codeSigning, 1.3.6.1.5.5.7.3.3.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
const ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
const ISSUER_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");

#[cfg(test)]
mod test {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        SanType, date_time_ymd,
    };

    use super::*;

    /// 2026-06-01, when all is good unless a test says otherwise.
    const AT: u64 = 1_780_272_000;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params
    }

    fn ca(name: &str) -> CertificateParams {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn leaf(older: &str, newer: &str) -> CertificateParams {
        let mut params = params("holder");
        params.subject_alt_names = vec![SanType::Rfc822Name("a@b.test".try_into().unwrap())];
        let id = |last| [1, 3, 6, 1, 4, 1, 57264, 1, last];
        let mut add = |last, content: Vec<u8>| {
            let extension = CustomExtension::from_oid_content(&id(last), content);
            params.custom_extensions.push(extension);
        };
        if !older.is_empty() {
            add(1, older.into());
        }
        if !newer.is_empty() {
            add(8, [&[0x0c, newer.len() as u8], newer.as_bytes()].concat());
        }
        params
    }

    /// A root, one below it, and who holds `leaf` of the latter; what the authority says of it at a time.
    fn judged(root: CertificateParams, leaf: CertificateParams, has_chain: bool, at: u64) -> Result<Key, String> {
        let [root_key, middle_key, leaf_key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root_der = root.self_signed(&root_key).unwrap().der().clone();
        let root = Issuer::new(root, root_key);
        let middle_der = ca("middle").signed_by(&middle_key, &root).unwrap().der().to_vec();
        let middle = Issuer::new(ca("middle"), middle_key);
        let leaf = leaf.signed_by(&leaf_key, &middle).unwrap().der().to_vec();
        let authority = Authority {
            name: "caPath /ca".into(),
            roots: vec![root_der],
            issuer: "i.test".into(),
            email: "a@b.test".into(),
        };
        let chain = if has_chain { vec![leaf, middle_der] } else { vec![leaf] };
        authority.holder(&chain, at)
    }

    #[test]
    fn a_certificate_is_good_by_its_chain_at_the_time_and_for_one_issuer() {
        for (older, newer) in [("i.test", ""), ("", "i.test"), ("i.test", "i.test")] {
            judged(ca("root"), leaf(older, newer), true, AT).unwrap();
        }
        let mut old_root = ca("root");
        old_root.not_after = date_time_ymd(2026, 3, 1);
        let mut no_usage = leaf("i.test", "");
        no_usage.extended_key_usages.clear();
        let mut no_email = leaf("i.test", "");
        no_email.subject_alt_names = vec![SanType::DnsName("a@b.test".try_into().unwrap())];
        let mut is_ca = leaf("i.test", "");
        is_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut twice = leaf("i.test", "");
        twice.custom_extensions.push(twice.custom_extensions[0].clone());
        for (what, root, leaf, has_chain, at, why) in [
            ("no chain", ca("root"), leaf("i.test", ""), false, AT, "not good"),
            ("an old root", old_root, leaf("i.test", ""), true, AT, "not good"),
            (
                "too early",
                ca("root"),
                leaf("i.test", ""),
                true,
                AT - 31_536_000,
                "not good",
            ),
            (
                "too late",
                ca("root"),
                leaf("i.test", ""),
                true,
                AT + 31_536_000,
                "not good",
            ),
            ("no issuer", ca("root"), leaf("", ""), true, AT, "no issuer"),
            (
                "two issuers",
                ca("root"),
                leaf("x.test", "i.test"),
                true,
                AT,
                "two issuers",
            ),
            (
                "another issuer",
                ca("root"),
                leaf("x.test", ""),
                true,
                AT,
                "of issuer \"x.test\"",
            ),
            ("an issuer twice", ca("root"), twice, true, AT, "twice"),
            ("no usage", ca("root"), no_usage, true, AT, "not good"),
            ("no e-mail", ca("root"), no_email, true, AT, "of []"),
            ("an authority", ca("root"), is_ca, true, AT, "not good"),
        ] {
            let refused = judged(root, leaf, has_chain, at).err().expect(what);
            assert!(refused.contains(why), "{what}: {refused}");
        }
    }
}

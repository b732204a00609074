//! Certificates that an authority gives to who logs in somewhere, for some minutes (Fulcio), or that a PKI gives for
//! longer: whose key one is, if the authority is the policy's, and the identity.
//!
//! That the former were good is asked for the moment of the signature, which the log knows; the latter have to be good today. Whether
//! certificates are in a log as well, and whether they were revoked, is not asked, as in containers/image. Sources: RFC 5280;
//! sigstore/fulcio, "Fulcio OID information"; containers-policy.json(5), "fulcio", "pki".

use std::{fmt, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
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
    /// What may be between a holder's certificate and a root, beside what a signature brings.
    pub between: Vec<CertificateDer<'static>>,
    pub subject: Subject,
}

/// Whom certificates have to be of.
pub enum Subject {
    /// Somebody with this e-mail who has logged in at this issuer.
    LoggedIn { issuer: String, email: String },
    /// Who has this e-mail and this name of a host, as far as the policy asks for them.
    Named {
        email: Option<String>,
        host: Option<ServerName<'static>>,
    },
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::LoggedIn { issuer, email } => write!(f, "{email} of {issuer}")?,
            Subject::Named { email, host } => {
                let host = host.as_ref().map(ServerName::to_str);
                let names: Vec<_> = email.as_deref().into_iter().chain(host.as_deref()).collect();
                write!(f, "{}", names.join(" at "))?;
            }
        }
        write!(f, " by {}", self.name)
    }
}

impl Authority {
    /// Whether its certificates are good for so short that only a log knows whether one was when it was used.
    pub fn needs_log(&self) -> bool {
        matches!(self.subject, Subject::LoggedIn { .. })
    }

    /// The key of who holds the first of these certificates, which was good at a time, in seconds since 1970.
    ///
    /// # Errors
    /// Why it is nobody who counts.
    pub fn holder(&self, certificates: &[Vec<u8>], at: u64) -> Result<Key, String> {
        let (leaf, between) = certificates.split_first().ok_or("there is no certificate")?;
        let der = CertificateDer::from(leaf.as_slice());
        let entity = EndEntityCert::try_from(&der).map_err(wrong)?;
        let between = between.iter().map(|der| CertificateDer::from(der.as_slice()));
        let between: Vec<_> = between.chain(self.between.iter().cloned()).collect();
        let mut anchors = Vec::new();
        for root in &self.roots {
            if is_valid(root, at).map_err(|why| format!("{}: {why}", self.name))? {
                anchors.push(anchor_from_trusted_cert(root).map_err(|error| format!("{}: {error}", self.name))?);
            }
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(at));
        entity
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                &between,
                time,
                self.usage(),
                None,
                None,
            )
            .map_err(wrong)?;
        self.check_subject(&entity, &Certificate::from_der(leaf).map_err(wrong)?)?;
        Key::from_der(&entity.subject_public_key_info()).map_err(wrong)
    }

    /// Fulcio's certificates say all what they are for; those of others that do not say it are for everything.
    fn usage(&self) -> KeyUsage {
        match self.subject {
            Subject::LoggedIn { .. } => KeyUsage::required(CODE_SIGNING),
            Subject::Named { .. } => KeyUsage::required_if_present(CODE_SIGNING),
        }
    }

    fn check_subject(&self, entity: &EndEntityCert<'_>, certificate: &Certificate) -> Result<(), String> {
        let (wanted, host) = match &self.subject {
            Subject::LoggedIn { issuer: wanted, email } => {
                let issuer = issuer(certificate)?;
                if issuer != *wanted {
                    return Err(format!("a certificate is of issuer {issuer:?}"));
                }
                (Some(email), None)
            }
            Subject::Named { email, host } => (email.as_ref(), host.as_ref()),
        };
        if let Some(email) = wanted {
            check_email(certificate, email)?;
        }
        let Some(host) = host else { return Ok(()) };
        let is_of_host = entity.verify_is_valid_for_subject_name(host);
        is_of_host.map_err(|error| format!("a certificate is not of {}: {error}", host.to_str()))
    }
}

fn wrong(why: impl fmt::Display) -> String {
    format!("a certificate is not good: {why}")
}

fn check_email(certificate: &Certificate, wanted: &str) -> Result<(), String> {
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let (_, names) = names
        .map_err(|error| format!("a certificate's names cannot be read: {error}"))?
        .ok_or("a certificate has no names")?;
    let emails: Vec<_> = names.0.iter().filter_map(email).collect();
    match emails.contains(&wanted) {
        true => Ok(()),
        false => Err(format!("a certificate is of {emails:?}")),
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

    /// A root, one below it, and who holds `leaf` of the latter.
    fn certified(root: CertificateParams, middle: CertificateParams, leaf: &CertificateParams) -> [Vec<u8>; 3] {
        let [root_key, middle_key, leaf_key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
        let root = Issuer::new(root, root_key);
        let middle_der = middle.signed_by(&middle_key, &root).unwrap().der().to_vec();
        let middle = Issuer::new(middle, middle_key);
        let leaf = leaf.signed_by(&leaf_key, &middle).unwrap().der().to_vec();
        [root_der, middle_der, leaf]
    }

    /// What an authority where one logs in says of that at a time.
    fn judged(root: CertificateParams, leaf: &CertificateParams, has_chain: bool, at: u64) -> Result<Key, String> {
        let [root, middle, leaf] = certified(root, ca("middle"), leaf);
        let authority = Authority {
            name: "caPath /ca".into(),
            roots: vec![root.into()],
            between: Vec::new(),
            subject: Subject::LoggedIn {
                issuer: "i.test".into(),
                email: "a@b.test".into(),
            },
        };
        let chain = if has_chain { vec![leaf, middle] } else { vec![leaf] };
        authority.holder(&chain, at)
    }

    /// Certificates without a word of what they are for, the holder's for an e-mail and some hosts.
    fn of_pki(name: &str, is_ca: bool) -> CertificateParams {
        let mut params = if is_ca { ca(name) } else { params(name) };
        params.extended_key_usages.clear();
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        params.subject_alt_names = match is_ca {
            true => Vec::new(),
            false => vec![
                SanType::Rfc822Name("a@b.test".try_into().unwrap()),
                dns("ci.b.test"),
                dns("*.build.test"),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
            ],
        };
        params
    }

    /// What a PKI with these names in the policy says of a holder today.
    fn judged_by_pki(
        (email, host): (&str, &str),
        [root, middle, leaf]: [Vec<u8>; 3],
        is_in_policy: bool,
        at: u64,
    ) -> Result<Key, String> {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (chain, between) = match is_in_policy {
            true => (vec![leaf], vec![middle.into()]),
            false => (vec![leaf, middle], Vec::new()),
        };
        let authority = Authority {
            name: "pki.caRootsPath /ca".into(),
            roots: vec![root.into()],
            between,
            subject: Subject::Named {
                email: given(email),
                host: given(host).map(|host| host.try_into().unwrap()),
            },
        };
        assert!(!authority.needs_log());
        authority.holder(&chain, at)
    }

    #[test]
    fn a_certificate_of_a_pki_is_good_today_for_all_names_that_the_policy_asks_for() {
        let pki = |leaf: &CertificateParams| certified(of_pki("root", true), of_pki("middle", true), leaf);
        let good = of_pki("holder", false);
        for names in [
            ("a@b.test", ""),
            ("", "ci.b.test"),
            ("", "x.build.test"),
            ("", "192.0.2.1"),
            ("a@b.test", "ci.b.test"),
        ] {
            for is_in_policy in [true, false] {
                judged_by_pki(names, pki(&good), is_in_policy, AT).unwrap();
            }
        }
        let mut for_code = good.clone();
        for_code.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        judged_by_pki(("a@b.test", ""), pki(&for_code), false, AT).unwrap();
        let mut for_servers = good.clone();
        for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut nameless = good.clone();
        nameless.subject_alt_names.clear();
        let mut of_another = pki(&good);
        of_another[0] = pki(&good)[0].clone();
        let email = ("a@b.test", "");
        for (what, names, certificates, at, why) in [
            (
                "another's e-mail",
                ("x@b.test", ""),
                pki(&good),
                AT,
                "of [\"a@b.test\"]",
            ),
            ("another host", ("", "x.test"), pki(&good), AT, "not of x.test"),
            (
                "two levels",
                ("", "x.y.build.test"),
                pki(&good),
                AT,
                "not of x.y.build.test",
            ),
            ("one of both", ("a@b.test", "x.test"), pki(&good), AT, "not of x.test"),
            ("no names", email, pki(&nameless), AT, "no names"),
            ("for servers", email, pki(&for_servers), AT, "not good"),
            ("another root", email, of_another, AT, "not good"),
            ("too early", email, pki(&good), AT - 31_536_000, "not good"),
            ("too late", email, pki(&good), AT + 31_536_000, "not good"),
        ] {
            let refused = judged_by_pki(names, certificates, true, at).err().expect(what);
            assert!(refused.contains(why), "{what}: {refused}");
        }
    }

    #[test]
    fn a_certificate_is_good_by_its_chain_at_the_time_and_for_one_issuer() {
        for (older, newer) in [("i.test", ""), ("", "i.test"), ("i.test", "i.test")] {
            judged(ca("root"), &leaf(older, newer), true, AT).unwrap();
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
            let refused = judged(root, &leaf, has_chain, at).err().expect(what);
            assert!(refused.contains(why), "{what}: {refused}");
        }
    }
}

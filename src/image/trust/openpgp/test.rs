//! Against what GnuPG 2.2 made (`vectors/make.sh`), and takes for good or not itself.

use std::slice;

use base64::{Engine, engine::general_purpose::STANDARD};
use pgp::{
    composed::{Deserializable, SignedPublicKey, SignedPublicSubKey, SignedSecretKey},
    crypto::hash::HashAlgorithm,
    packet::{
        KeyFlags, LiteralData, Notation, Packet, Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData,
    },
    ser::Serialize,
    types::{Duration, KeyDetails, Password, RevocationKey, RevocationKeyClass, SigningKey, Tag, Timestamp},
};

use super::Keyring;

/// 2026-02-10, when all is good unless its name says otherwise, and 2026-06-01.
const SOON: u64 = 1_770_681_600;
const LATER: u64 = 1_780_272_000;
const PAYLOAD: &[u8] = include_bytes!("vectors/payload");

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("vectors/", $name)).as_slice()
    };
}

fn keyring(files: &[&[u8]], now: u64) -> Result<Keyring, String> {
    let named = files
        .iter()
        .enumerate()
        .map(|(at, bytes)| (format!("keyPaths /{at}"), bytes.to_vec()));
    Keyring::new(&named.collect::<Vec<_>>(), now)
}

fn open(files: &[&[u8]], message: &[u8], now: u64) -> Result<String, String> {
    let (content, by) = keyring(files, now)?.open(message)?;
    assert_eq!(content, PAYLOAD);
    Ok(by)
}

#[track_caller]
fn refused(files: &[&[u8]], message: &[u8], now: u64, why: &str) {
    let told = open(files, message, now).expect_err(why);
    assert!(told.contains(why), "{why}: {told}");
}

const ED25519: &[u8] = vector!("ed25519.asc");

#[test]
fn each_trusted_kind_of_key_vouches_for_its_own_messages_only() {
    let made = [
        (ED25519, vector!("ed25519.gpg")),
        (vector!("nistp256.asc"), vector!("nistp256.gpg")),
        (vector!("rsa2048.asc"), vector!("rsa2048.gpg")),
    ];
    for (of, (key, _)) in made.iter().enumerate() {
        for (by, (_, message)) in made.iter().enumerate() {
            match open(&[key], message, LATER) {
                Ok(told) => assert!(of == by && told.starts_with("keyPaths /0 ("), "{of} {by}: {told}"),
                Err(why) => assert!(of != by && why.contains("made by none of the keys"), "{of} {by}: {why}"),
            }
        }
    }
    refused(
        &[vector!("rsa1024.asc")],
        vector!("rsa1024.gpg"),
        LATER,
        "has 1024 bits only",
    );
    refused(
        &[vector!("dsa2048.asc")],
        vector!("dsa2048.gpg"),
        LATER,
        "is of a kind that is not trusted: DSA",
    );
}

#[test]
fn a_keyring_may_have_several_keys_in_every_form() {
    let message = vector!("nistp256.gpg");
    open(&[vector!("both.pgp")], message, LATER).unwrap();
    let told = open(&[ED25519, vector!("nistp256.asc")], message, LATER).unwrap();
    assert!(told.starts_with("keyPaths /1 ("), "{told}");
    let text = [b"Two keys.\n", ED25519, b"\nThe other:\n", vector!("nistp256.asc")].concat();
    open(&[&text], message, LATER).unwrap();
    open(&[&text], vector!("ed25519.gpg"), LATER).unwrap();
    let dos = String::from_utf8(text).unwrap().replace('\n', "\r\n");
    open(&[dos.as_bytes()], message, LATER).unwrap();
}

#[test]
fn what_is_no_keyring_is_an_error_with_its_name() {
    let both = vector!("both.pgp");
    for (bytes, why) in [
        (&b""[..], "no PGP PUBLIC KEY BLOCK"),
        (b"-----BEGIN PUBLIC KEY-----\n", "no PGP PUBLIC KEY BLOCK"),
        (b"\x01\xff\xfe", "neither a binary keyring nor text"),
        (&both[..both.len() - 7], "not an OpenPGP keyring"),
        (&ED25519[..ED25519.len() / 2], "armor"),
        (vector!("thief.key"), "no PGP PUBLIC KEY BLOCK"),
        (vector!("plain.gpg"), "something else than public keys"),
    ] {
        let told = keyring(&[bytes], LATER).err().expect(why);
        assert!(told.starts_with("keyPaths /0: ") && told.contains(why), "{why}: {told}");
    }
    let (secret, _) = SignedSecretKey::from_armor_single(vector!("thief.key")).unwrap();
    let told = keyring(&[&secret.to_bytes().unwrap()], LATER).err().unwrap();
    assert!(told.contains("a secret key"), "{told}");
    let told = keyring(&[vector!("revocation.asc")], LATER).err().unwrap();
    assert!(told.contains("no key in any"), "{told}");
}

#[test]
fn a_message_counts_with_one_signature_of_a_content_by_a_hash_that_holds() {
    for message in [vector!("plain.gpg"), vector!("text.gpg")] {
        open(&[ED25519], message, LATER).unwrap();
    }
    for (message, why) in [
        (vector!("sha1.gpg"), "made with SHA1"),
        (vector!("two.gpg"), "not a message with one signature"),
        (vector!("detached.gpg"), "not a message with one signature"),
        (vector!("unsigned.gpg"), "not a message with one signature"),
        (vector!("clear.gpg"), "malformed"),
        (vector!("large.gpg"), "more than 65536 bytes"),
        (b"", "not a message with one signature"),
        (ED25519, "malformed"),
    ] {
        refused(&[vector!("both.pgp")], message, LATER, why);
    }
}

#[test]
fn a_signature_of_no_content_is_none_of_this_one() {
    let thief = Thief::new();
    let key = thief.public(|_| {});
    for (typ, over, why) in [
        (SignatureType::Binary, PAYLOAD, ""),
        // Over one byte, which is all that `pgp` looks at then.
        (SignatureType::Standalone, &PAYLOAD[..1], "not one of a content"),
        (SignatureType::Timestamp, &PAYLOAD[..1], "not one of a content"),
    ] {
        let signature = thief.sign(thief.config(SOON as u32, typ, Vec::new()), over);
        let literal = LiteralData::from_bytes("", PAYLOAD.into()).unwrap();
        let message = [Packet::from(signature), Packet::from(literal)];
        let message: Vec<u8> = message.iter().flat_map(|packet| packet.to_bytes().unwrap()).collect();
        match why {
            "" => drop(open(&[&key], &message, LATER).unwrap()),
            why => refused(&[&key], &message, LATER, why),
        }
    }
}

#[test]
fn what_was_changed_anywhere_is_refused_or_says_the_same() {
    for whole in [vector!("plain.gpg"), vector!("ed25519.gpg"), vector!("rsa2048.gpg")] {
        let keys = keyring(&[ED25519, vector!("rsa2048.asc")], LATER).unwrap();
        for at in 0..whole.len() {
            let mut torn = whole.to_vec();
            torn[at] ^= 1 << (at % 8);
            if let Ok((content, _)) = keys.open(&torn) {
                assert_eq!(content, PAYLOAD, "byte {at}");
            }
            assert!(keys.open(&whole[..at]).is_err(), "{at} bytes");
        }
        let at = whole.windows(8).position(|bytes| bytes == b"critical");
        let Some(at) = at else { continue };
        let mut torn = whole.to_vec();
        torn[at] ^= 1;
        let told = keys.open(&torn).unwrap_err();
        assert!(told.contains("made by none of the keys"), "{told}");
    }
}

#[test]
fn no_change_of_a_keyring_makes_another_key_count() {
    let keys = vector!("both.pgp");
    for at in 0..keys.len() {
        let mut torn = keys.to_vec();
        torn[at] ^= 0x10;
        if let Ok(by) = open(&[&torn], vector!("rsa2048.gpg"), LATER) {
            panic!("byte {at}: {by}");
        }
    }
}

#[test]
fn what_has_expired_counts_no_more() {
    let brief = vector!("brief.asc");
    open(&[brief], vector!("expired.gpg"), SOON).unwrap();
    refused(&[brief], vector!("expired.gpg"), LATER, ", which has expired");
    // Its holder has given it more time since.
    open(&[vector!("extended.asc")], vector!("expired.gpg"), LATER).unwrap();
    open(&[brief, vector!("extended.asc")], vector!("expired.gpg"), LATER).unwrap();
    open(&[ED25519], vector!("brief.gpg"), SOON).unwrap();
    refused(&[ED25519], vector!("brief.gpg"), LATER, " has expired");
    refused(&[ED25519], vector!("early.gpg"), LATER, "is older than that");
    refused(&[ED25519], vector!("ed25519.gpg"), 1_760_000_000, "is not made yet");
}

#[test]
fn what_was_revoked_counts_no_more_wherever_that_is_said() {
    let (message, key, revocation) = (
        vector!("revoked.gpg"),
        vector!("unrevoked.asc"),
        vector!("revocation.asc"),
    );
    open(&[key], message, SOON).unwrap();
    let one = [key, b"\n", revocation].concat();
    for files in [
        &[vector!("revoked.asc")][..],
        &[&one],
        &[key, revocation],
        &[revocation, key],
        &[key, vector!("revoked.asc")],
    ] {
        refused(files, message, SOON, ", which was revoked");
    }
    // Of another key it says nothing.
    open(&[ED25519, revocation], vector!("ed25519.gpg"), SOON).unwrap();
}

#[test]
fn a_subkey_counts_while_it_is_bound_and_its_key_counts() {
    let parent = vector!("parent.asc");
    let (revoked, extended) = (vector!("subkey-revoked.asc"), vector!("subkey-extended.asc"));
    let told = open(&[parent], vector!("subkey0.gpg"), LATER).unwrap();
    let primary = SignedPublicKey::from_armor_single(parent).unwrap().0;
    assert_eq!(told, format!("keyPaths /0 ({:X})", primary.fingerprint()));
    open(&[revoked], vector!("subkey0.gpg"), LATER).unwrap();
    open(&[parent], vector!("subkey1.gpg"), LATER).unwrap();
    refused(&[revoked], vector!("subkey1.gpg"), LATER, ", which was revoked");
    open(&[parent], vector!("subkey2.gpg"), SOON).unwrap();
    refused(&[parent], vector!("subkey2.gpg"), LATER, ", which has expired");
    for files in [&[extended][..], &[parent, extended], &[extended, parent]] {
        open(files, vector!("subkey2.gpg"), LATER).unwrap();
    }
}

#[test]
fn what_a_key_says_of_itself_last_counts() {
    let thief = Thief::new();
    let message = vector!("thief.gpg");
    let says =
        |all: &[Signature]| thief.public(|public| public.details.users[0].signatures.extend(all.iter().cloned()));
    open(&[&says(&[])], message, LATER).unwrap();
    let (old, new) = (SOON as u32 - 1, SOON as u32 + 1);
    let certify = |at| {
        thief.named(
            at,
            SignatureType::CertPositive,
            vec![SubpacketData::KeyFlags(flags(false))],
        )
    };
    let sign = |at| {
        thief.named(
            at,
            SignatureType::CertPositive,
            vec![SubpacketData::KeyFlags(flags(true))],
        )
    };
    refused(&[&says(&[certify(new)])], message, LATER, "is not for signing");
    refused(
        &[&says(&[certify(new), sign(old)])],
        message,
        LATER,
        "is not for signing",
    );
    open(&[&says(&[certify(old), sign(new)])], message, LATER).unwrap();
    // Of a key that is there twice as well.
    let (first, second) = (says(&[]), says(&[certify(new)]));
    refused(&[&first, &second], message, LATER, "is not for signing");
    refused(&[&second, &first], message, LATER, "is not for signing");
    // A name that was taken back says nothing any more; it may come again.
    let revoked = thief.named(SOON as u32, SignatureType::CertRevocation, Vec::new());
    let taken_back = says(slice::from_ref(&revoked));
    refused(&[&taken_back], message, LATER, "has not signed itself");
    refused(&[&first, &taken_back], message, LATER, "has not signed itself");
    open(&[&says(&[revoked, sign(new)])], message, LATER).unwrap();
    // What is not understood, and what has expired by then.
    let unknown = |part| {
        let mut config = thief.config(
            new,
            SignatureType::CertPositive,
            vec![SubpacketData::KeyFlags(flags(false))],
        );
        config.hashed_subpackets.push(Subpacket::critical(part).unwrap());
        thief.name(config)
    };
    let notation = Notation {
        readable: true,
        name: "unknown@signed.example".into(),
        value: "1".into(),
    };
    open(&[&says(&[unknown(SubpacketData::Notation(notation))])], message, LATER).unwrap();
    let short = SubpacketData::SignatureExpirationTime(Duration::from_secs(10));
    let mut expiring = certify(new).config().unwrap().clone();
    expiring.hashed_subpackets.push(Subpacket::regular(short).unwrap());
    let expiring = says(&[thief.name(expiring)]);
    refused(&[&expiring], message, SOON, "is not for signing");
    open(&[&expiring], message, LATER).unwrap();
}

#[test]
fn what_a_key_says_directly_counts_before_what_it_says_with_a_name() {
    let thief = Thief::new();
    let message = vector!("thief.gpg");
    let direct = |parts| {
        let config = thief.config(SOON as u32, SignatureType::Key, parts);
        let key = &thief.0.primary_key;
        let signature = config.sign_key(key, &Password::empty(), key.public_key()).unwrap();
        thief.public(|public| public.details.direct_signatures.push(signature))
    };
    open(&[&direct(Vec::new())], message, LATER).unwrap();
    refused(
        &[&direct(vec![SubpacketData::KeyFlags(flags(false))])],
        message,
        LATER,
        "is not for signing",
    );
    let month = SubpacketData::KeyExpirationTime(Duration::from_secs(60 * 86400));
    open(&[&direct(vec![month.clone()])], message, SOON).unwrap();
    refused(&[&direct(vec![month])], message, LATER, ", which has expired");
}

#[test]
fn a_key_without_its_own_word_and_a_revocation_by_who_may_are_believed() {
    // What another says of it is not its own word.
    let thief = Thief::new();
    let mut bare = key_of(ED25519);
    bare.details.users = vec![thief.0.details.users[0].clone()];
    let key = &thief.0.primary_key;
    let config = thief.config(SOON as u32, SignatureType::Key, Vec::new());
    let by_thief = config.sign_key(key, &Password::empty(), &bare.primary_key).unwrap();
    bare.details.direct_signatures = vec![by_thief];
    refused(
        &[&bare.to_bytes().unwrap()],
        vector!("ed25519.gpg"),
        LATER,
        "has not signed itself",
    );
    // The thief lets another revoke his key, who does so.
    let other = key_of(vector!("unrevoked.asc"));
    let revoker = RevocationKey::new(
        RevocationKeyClass::Default,
        other.algorithm(),
        other.fingerprint().as_bytes(),
    );
    let config = thief.config(
        SOON as u32,
        SignatureType::Key,
        vec![SubpacketData::RevocationKey(revoker)],
    );
    let signature = config.sign_key(key, &Password::empty(), key.public_key()).unwrap();
    let revocable = thief.public(|public| public.details.direct_signatures.push(signature));
    open(&[&revocable], vector!("thief.gpg"), LATER).unwrap();
    refused(
        &[&revocable, vector!("revocation.asc")],
        vector!("thief.gpg"),
        LATER,
        ", which was revoked",
    );
}

#[test]
fn nobody_can_bind_the_subkey_of_another_to_his_own_key() {
    let thief = Thief::new();
    let parent = key_of(vector!("parent.asc"));
    let bound = |is_for_signing| {
        thief.public(|public| {
            for subkey in &parent.public_subkeys {
                let parts = vec![SubpacketData::KeyFlags(flags(is_for_signing))];
                let config = thief.config(SOON as u32, SignatureType::SubkeyBinding, parts);
                let key = &thief.0.primary_key;
                let signature = config.sign_subkey_binding(key, key.public_key(), &Password::empty(), &subkey.key);
                let bound = SignedPublicSubKey::new(subkey.key.clone(), vec![signature.unwrap()]);
                public.public_subkeys.push(bound);
            }
        })
    };
    let message = vector!("subkey0.gpg");
    refused(&[&bound(true)], message, LATER, "has not agreed to be its subkey");
    refused(&[&bound(false)], message, LATER, "is not for signing");
    // What binds it to its own key binds it to no other.
    let unbound = thief.public(|public| public.public_subkeys.clone_from(&parent.public_subkeys));
    refused(&[&unbound], message, LATER, "is not bound to it");
}

fn key_of(armored: &[u8]) -> SignedPublicKey {
    SignedPublicKey::from_armor_single(armored).unwrap().0
}

fn flags(is_for_signing: bool) -> KeyFlags {
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(is_for_signing);
    flags
}

/// Who signs what GnuPG would not.
struct Thief(SignedSecretKey);

impl Thief {
    fn new() -> Self {
        Self(SignedSecretKey::from_armor_single(vector!("thief.key")).unwrap().0)
    }

    /// The key as it is shown after a change.
    fn public(&self, change: impl FnOnce(&mut SignedPublicKey)) -> Vec<u8> {
        let mut public = self.0.to_public_key();
        change(&mut public);
        public.to_bytes().unwrap()
    }

    fn config(&self, at: u32, typ: SignatureType, parts: Vec<SubpacketData>) -> SignatureConfig {
        let mut config = SignatureConfig::v4(typ, self.0.algorithm(), HashAlgorithm::Sha512);
        let parts = [SubpacketData::SignatureCreationTime(Timestamp::from_secs(at))]
            .into_iter()
            .chain(parts);
        config.hashed_subpackets = parts.map(|part| Subpacket::regular(part).unwrap()).collect();
        config
    }

    fn sign(&self, config: SignatureConfig, content: &[u8]) -> Signature {
        let mut hasher = config.hash_alg.new_hasher().unwrap();
        config.hash_data_to_sign(&mut hasher, content).unwrap();
        let length = config.hash_signature_data(&mut hasher).unwrap();
        hasher.update(&config.trailer(length).unwrap());
        let hash = hasher.finalize();
        let key = &self.0.primary_key;
        let made = key.sign(&Password::empty(), config.hash_alg, &hash).unwrap();
        Signature::from_config(config, [hash[0], hash[1]], made).unwrap()
    }

    /// What the key says with its name.
    fn named(&self, at: u32, typ: SignatureType, parts: Vec<SubpacketData>) -> Signature {
        self.name(self.config(at, typ, parts))
    }

    fn name(&self, config: SignatureConfig) -> Signature {
        let (key, id) = (&self.0.primary_key, &self.0.details.users[0].id);
        config
            .sign_certification(key, key.public_key(), &Password::empty(), Tag::UserId, id)
            .unwrap()
    }
}

/// Found by the fuzz target: `pgp` told of it with a backtrace.
#[test]
fn what_is_malformed_is_told_in_few_words() {
    let message = concat!(
        "iI0EABYIADUWIQRNVjWJszVQidjbOnFIaUYonO8jzwUCaX6XgBccZWQyNTUxOUBzaWduLmRlYnVnX3JuZ2xpc3RzZWQuZXhhbXBs",
        "ZQAKCRBIaUYonO8jz//mAP40Px3iWx3Fi/g0Rso5JRjuEoomSkGCZBUj5b0/eAkZTQD8Ct86T7J1uecAiIuJ+0RlkFpK27hWu6CExTQRjR7zkA0=",
    );
    let message = STANDARD.decode(message).unwrap();
    let told = open(&[vector!("both.pgp")], &message, LATER).unwrap_err();
    assert!(
        told.starts_with("a GPG signature is malformed: ") && told.len() < 200,
        "{told}"
    );
}

#!/bin/bash
# Makes the keys and messages that the tests of this folder read, with GnuPG: none of it is ever made anew by a build.
# Keys are of 2026-01-01, what they signed is of 2026-02-01 unless its name says otherwise.
set -euo pipefail
cd "$(dirname "$0")"

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
trap 'gpgconf --kill all; rm -rf "$GNUPGHOME"' EXIT

at() {
    local day=$1
    shift
    gpg --batch --quiet --yes --pinentry-mode loopback --passphrase '' --faked-system-time "${day//-/}T000000" "$@"
}

# key NAME ALGORITHM USAGE EXPIRY
key() { at 2026-01-01 --quick-generate-key "$1 <$1@signed.example>" "${@:2}"; }
fingerprint() { gpg --batch --with-colons --list-keys "$1@signed.example" | awk -F: '$1 == "fpr" {print $10; exit}'; }
public() { at 2026-02-01 --export --armor "$1@signed.example" >"${2:-$1}.asc"; }
# signed NAME FILE OPTIONS
signed() { at "${DAY:-2026-02-01}" -u "$1@signed.example" "${@:3}" --sign <payload >"$2.gpg"; }

printf '%s' '{"critical": {"identity": {"docker-reference": "r.test/x:1"}, "image": {"docker-manifest-digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}, "type": "atomic container signature"}, "optional": {"creator": "gpg", "timestamp": 1769904000}}' >payload

for kind in ed25519 nistp256 rsa2048 rsa1024 dsa2048; do
    key $kind $kind sign never
    public $kind
    signed $kind $kind
done
at 2026-02-01 --export ed25519@signed.example nistp256@signed.example >both.pgp

signed ed25519 plain --compress-algo none
signed ed25519 text --textmode
signed ed25519 sha1 --digest-algo SHA1
signed ed25519 brief --default-sig-expire 10d
signed ed25519 two -u nistp256@signed.example
DAY=2025-12-01 signed ed25519 early --ignore-time-conflict
at 2026-02-01 --detach-sign -u ed25519@signed.example <payload >detached.gpg
at 2026-02-01 --clear-sign -u ed25519@signed.example <payload >clear.gpg
at 2026-02-01 --store <payload >unsigned.gpg
head -c 200000 /dev/zero | at 2026-02-01 -u ed25519@signed.example --sign >large.gpg

# It expires in March, and is extended then.
key brief ed25519 sign 2026-03-01
signed brief expired
public brief
at 2026-02-15 --quick-set-expire "$(fingerprint brief)" 2027-01-01
public brief extended

# A key that signs with a subkey only, of which one is revoked later, and one expires.
key parent ed25519 cert never
for expiry in never never 2026-03-01; do
    at 2026-01-01 --quick-add-key "$(fingerprint parent)" ed25519 sign $expiry
done
mapfile -t subkeys < <(gpg --batch --with-colons --list-keys parent@signed.example | awk -F: '$1 == "fpr" {print $10}' | tail -n +2)
for at in 0 1 2; do
    at 2026-02-01 -u "${subkeys[$at]}!" --sign <payload >"subkey$at.gpg"
done
public parent
at 2026-02-15 --quick-set-expire "$(fingerprint parent)" 2027-01-01 "${subkeys[2]}"
public parent subkey-extended
printf 'key 2\nrevkey\ny\n0\n\ny\nsave\n' |
    gpg --quiet --yes --no-tty --pinentry-mode loopback --passphrase '' --faked-system-time 20260215T000000 \
        --command-fd 0 --edit-key parent@signed.example
public parent subkey-revoked

# A key with which the tests sign what GnuPG would not: a thief's own, to bind the subkey of another to.
key thief ed25519 sign never
signed thief thief
at 2026-02-01 --export-secret-keys --armor thief@signed.example >thief.key

# A revocation beside its key, and in it.
key revoked ed25519 sign never
signed revoked revoked
public revoked unrevoked
sed 's/^:-----BEGIN/-----BEGIN/' "$GNUPGHOME/openpgp-revocs.d/$(fingerprint revoked).rev" | sed -n '/^-----BEGIN/,$p' >revocation.asc
gpg --batch --quiet --import revocation.asc
public revoked

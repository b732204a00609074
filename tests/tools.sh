#!/bin/bash
# Installs what the tests need, once: Debian packages, the musl target, crictl
# and critest of one pinned release, and the ginkgo that critest runs its specs
# in parallel with, and cargo-deny. Doing it again costs a second.
#
#   tests/tools.sh [DIR]     the programs land in DIR (default target/tools)
set -euo pipefail

cri_tools=v1.37.0
cargo_deny=0.20.2
repo=$(cd "$(dirname "$0")/.." && pwd)
tools=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$repo/target}/tools}")

# PROGRAM:PACKAGE, asked for by program: a machine may have it from elsewhere.
programs=(
    gcc:gcc musl-gcc:musl-tools python3:python3 openssl:openssl gpg:gnupg
    docker-registry:docker-registry crun:crun runc:runc
    ip:iproute2 nft:nftables iptables:iptables ping:iputils-ping ipcmk:util-linux unshare:util-linux
    dpkg-deb:dpkg mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs
)

main() {
    packages
    target
    mkdir -p "$tools"
    if [ "$(cat "$tools/version" 2>/dev/null)" != "$cri_tools" ] || [ ! -e "$tools/ginkgo" ]; then
        cri_tools
    fi
    if ! command -v cargo-deny >/dev/null && [ ! -e "$tools/bin/cargo-deny" ]; then
        echo "tools: building cargo-deny $cargo_deny (some minutes)"
        CARGO_TARGET_DIR=$tools/deny-build cargo install --quiet --locked --root "$tools" --version "$cargo_deny" cargo-deny
        rm -rf "$tools/deny-build"
    fi
}

packages() {
    local missing=() entry
    for entry in "${programs[@]}"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    if [ ${#missing[@]} = 0 ] && [ -e "$tools/busybox/bin/busybox" ] && [ -e "$tools/cni/usr/lib/cni" ] &&
        [ -e "$tools/skopeo/usr/bin/skopeo" ]; then return; fi
    command -v apt-get >/dev/null || { echo "tools: install by hand: ${missing[*]} busybox containernetworking-plugins libgpgme11 skopeo" >&2; exit 1; }
    apt-get -qq update
    if [ ${#missing[@]} != 0 ]; then
        echo "tools: installing ${missing[*]}"
        # The registry's package must not start a service beside ours.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
    fi
    # The shell of the test images is Debian's *dynamic* busybox: the static one runs
    # applets inside the shell, so a masked /bin/ls would still work. It conflicts with
    # busybox-static, so it is unpacked beside the system instead of installed.
    [ -e "$tools/busybox/bin/busybox" ] || unpack busybox busybox
    # Plugins of other networks, as a cluster brings them: not installed either, other programs look for them there.
    [ -e "$tools/cni/usr/lib/cni" ] || unpack containernetworking-plugins cni
    # Archives as others write them. Installed, it would bring configuration and plugins of networks to the machine.
    [ -e "$tools/skopeo/usr/bin/skopeo" ] || { unpack libgpgme11 skopeo && unpack skopeo skopeo; }
}

# unpack PACKAGE FOLDER
unpack() {
    mkdir -p "$tools/deb"
    (cd "$tools/deb" && rm -f ./*.deb && apt-get -qq download "$1")
    dpkg-deb -x "$tools"/deb/"$1"_*.deb "$tools/$2"
}

target() {
    local musl
    musl=$(uname -m)-unknown-linux-musl
    # Where rustup is not the way Rust came, the target has to be there already.
    if command -v rustup >/dev/null && ! (cd "$repo" && rustup target list --installed) | grep -qx "$musl"; then
        (cd "$repo" && rustup target add "$musl")
    fi
}

cri_tools() {
    command -v go >/dev/null || { echo "tools: Go is needed to build crictl and critest" >&2; exit 1; }
    echo "tools: building crictl and critest $cri_tools (some minutes)"
    local scratch=$tools/src
    rm -rf "$scratch"
    mkdir -p "$scratch"
    (
        cd "$scratch"
        export CGO_ENABLED=0 GOFLAGS=-mod=mod
        go mod init scratch 2>/dev/null
        # A scratch module: a module proxy may refuse what `go install PKG@VERSION` asks first.
        go get "sigs.k8s.io/cri-tools@$cri_tools" \
            "sigs.k8s.io/cri-tools/cmd/crictl@$cri_tools" "sigs.k8s.io/cri-tools/cmd/critest@$cri_tools" >/dev/null 2>&1
        go get github.com/onsi/ginkgo/v2/ginkgo >/dev/null 2>&1
        local stamp="-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=${cri_tools#v}"
        nice go build -trimpath -ldflags "$stamp" -o "$tools/crictl" sigs.k8s.io/cri-tools/cmd/crictl
        nice go test -c -trimpath -ldflags "$stamp" -o "$tools/critest" sigs.k8s.io/cri-tools/cmd/critest
        # Of the version that critest is built with: the two talk to each other.
        nice go build -trimpath -ldflags "-s -w" -o "$tools/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
        # Where its sources are: the images' script reads what they must be called.
        go list -m -f '{{.Dir}}' sigs.k8s.io/cri-tools >"$tools/critest.src"
    )
    rm -rf "$scratch"
    echo "$cri_tools" >"$tools/version"
}

main

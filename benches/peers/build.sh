#!/bin/bash
# Builds the runtimes that inro is measured against, of pinned releases, and installs what they need of Debian's.
#
#   benches/peers/build.sh [DIR]     the programs land in DIR (default target/tools/peers), the CNI plugins in DIR/cni
#
# containerd with its shim, runc, CRI-O with pinns, and the CNI plugins are built from their Go modules, each with the
# dependencies that its own go.mod names. crun and conmon are those of one Debian release, whichever this machine has: containerd's
# specs are of a version that older ones refuse. Needs Go, and root where a package is missing. Ten minutes of two processors the
# first time; doing it again costs nothing.
set -euo pipefail

containerd=2.4.2
runc=1.5.3
# The newest release that the module proxy serves.
crio=1.36.3
cni=1.10.0
plugins=(main/bridge main/loopback ipam/host-local meta/portmap meta/firewall)
debian=trixie
# crun, conmon, and the libraries that they load.
theirs=(crun conmon libc6 libcap2 libseccomp2 libsystemd0 libyajl2 libglib2.0-0t64 libpcre2-8-0 libatomic1)
# FILE:PACKAGE, asked for by file: a machine may have it from elsewhere. CRI-O and runc filter calls with libseccomp.
packages=(
    iptables:iptables nft:nftables ip:iproute2 gcc:gcc make:make patchelf:patchelf
    /usr/include/seccomp.h:libseccomp-dev
)
repo=$(cd "$(dirname "$0")/../.." && pwd)
out=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$repo/target}/tools/peers}")
# What was built.
stamp="containerd $containerd, runc $runc, CRI-O $crio, CNI plugins $cni, crun and conmon of $debian"

main() {
    install_packages
    if [ "$(cat "$out/version" 2>/dev/null)" = "$stamp" ]; then return 0; fi
    export PATH=$PATH:/usr/local/go/bin
    command -v go >/dev/null || { echo "peers: Go is needed to build them" >&2; exit 1; }
    mkdir -p "$out/cni"
    # Not local: a trap looks at it.
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    unpack_debian
    build_containerd
    build_runc
    build_plugins
    build_crio
    echo "$stamp" >"$out/version"
}

install_packages() {
    local missing=() entry
    for entry in "${packages[@]}"; do
        [ -e "${entry%%:*}" ] || command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    if [ ${#missing[@]} = 0 ]; then return; fi
    command -v apt-get >/dev/null || { echo "peers: install by hand: ${missing[*]}" >&2; exit 1; }
    echo "peers: installing ${missing[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# What their packages contain, in a folder of its own; the programs are told to look for their libraries there.
unpack_debian() {
    local program package interpreter
    echo "peers: unpacking crun and conmon of $debian"
    rm -rf "$out/debian"
    mkdir -p "$out/debian" "$scratch/apt/lists" && cd "$scratch/apt"
    # From where this machine has its own packages.
    echo "deb $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 'debian/$') $debian main" >sources.list
    local apt=(apt-get -qq -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=-
        -o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD")
    "${apt[@]}" update
    "${apt[@]}" download "${theirs[@]/%//$debian}"
    for package in ./*.deb; do dpkg-deb -x "$package" "$out/debian"; done
    for program in crun conmon; do
        install "$out/debian/usr/bin/$program" "$out/$program"
        interpreter=$(patchelf --print-interpreter "$out/$program")
        patchelf --set-interpreter "$out/debian/usr$interpreter" \
            --force-rpath --set-rpath "$out/debian/usr/lib/$(uname -m)-linux-gnu" "$out/$program"
    done
}

build_containerd() {
    enter github.com/containerd/containerd/v2 "$containerd"
    local version=github.com/containerd/containerd/v2/version.Version=v$containerd
    # The release's tags; btrfs alone would need a C library.
    CGO_ENABLED=1 build urfave_cli_no_docs,no_btrfs "-X $version" containerd ./cmd/containerd
    CGO_ENABLED=0 build urfave_cli_no_docs,no_grpc "-X $version" containerd-shim-runc-v2 ./cmd/containerd-shim-runc-v2
}

build_runc() {
    enter github.com/opencontainers/runc "$runc"
    # The release's tags but libpathrs, a C library that Debian has not.
    CGO_ENABLED=1 build seccomp,urfave_cli_no_docs "" runc .
}

build_plugins() {
    enter github.com/containernetworking/plugins "v$cni"
    local plugin version=github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v$cni
    for plugin in "${plugins[@]}"; do
        CGO_ENABLED=0 build netgo "-X $version" "cni/${plugin#*/}" "./plugins/$plugin"
    done
}

build_crio() {
    enter github.com/cri-o/cri-o "$crio"
    # The constant that CRI-O gives its pause: without CAP_SYS_RESOURCE nobody may lower it, and CRI-O has no setting for that.
    grep -q 'PodInfraOOMAdj int = -998$' server/sandbox_run.go
    sed -i 's/\(PodInfraOOMAdj int = \)-998$/\10/' server/sandbox_run.go
    local tags=seccomp,containers_image_openpgp,containers_image_ostree_stub,exclude_graphdriver_btrfs,btrfs_noversion
    CGO_ENABLED=1 build "$tags" "" crio ./cmd/crio
    nice make -s -C pinns
    install bin/pinns "$out/pinns"
}

# Stands in a copy of a module: it is built as its own main module, and may be changed.
enter() {
    local folder
    folder=$scratch/$(basename "${1%/v2}")
    cp -r "$(go mod download -json "$1@v${2#v}" | sed -nE 's/^\s*"Dir": "(.*)",?$/\1/p')" "$folder"
    chmod -R u+w "$folder"
    cd "$folder"
}

# build TAGS LDFLAGS PROGRAM PACKAGE
build() {
    echo "peers: building $3"
    nice go build -trimpath -buildvcs=false -tags "$1" -ldflags "-s -w $2" -o "$out/$3" "$4"
}

main

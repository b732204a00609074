#!/bin/bash
# Builds a kubelet, and what a one-node cluster needs beside it, of one pinned release.
#
#   tests/kubelet/build.sh [DIR]     the programs land in DIR (default target/tools/kube)
#
# Needs Go. Half an hour of two processors the first time; doing it again costs nothing.
set -euo pipefail

kubernetes=1.37.2
etcd=3.6.8
programs=(kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
repo=$(cd "$(dirname "$0")/../.." && pwd)
out=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$repo/target}/tools/kube}")

main() {
    [ "$(cat "$out/version" 2>/dev/null)" != "$kubernetes $etcd" ] || return 0
    export PATH=$PATH:/usr/local/go/bin CGO_ENABLED=0 GOFLAGS=-mod=mod
    command -v go >/dev/null || { echo "kubelet: Go is needed to build it" >&2; exit 1; }
    mkdir -p "$out"
    # Not local: a trap looks at it.
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    kubernetes_module "$scratch/kubernetes"
    etcd_module "$scratch/etcd"
    echo "$kubernetes $etcd" >"$out/version"
}

# A module that requires it: its own go.mod names its neighbours as v0.0.0, which only its repository can resolve.
kubernetes_module() {
    local package=k8s.io/kubernetes mod neighbour
    mkdir "$1"
    cd "$1"
    go mod init scratch 2>/dev/null
    mod=$(go mod download -json "$package@v$kubernetes" | sed -nE 's/^\s*"GoMod": "(.*)",?$/\1/p')
    go mod edit -go="$(sed -nE 's/^go //p' "$mod")" -godebug="default=go1.26" -require="$package@v$kubernetes"
    while read -r neighbour; do
        go mod edit -replace="$neighbour=$neighbour@v0.${kubernetes#1.}"
    done < <(sed -nE 's#^\s*(k8s.io/[a-z-]+) v0\.0\.0( .*)?$#\1#p' "$mod")
    local version=k8s.io/component-base/version minor=${kubernetes#1.} program
    local stamp="-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%.*}"
    for program in "${programs[@]}"; do
        echo "kubelet: building $program $kubernetes"
        nice go build -trimpath -ldflags "$stamp" -o "$out/$program" "$package/cmd/$program"
    done
}

etcd_module() {
    local package=go.etcd.io/etcd/server/v3
    mkdir "$1"
    cd "$1"
    go mod init scratch 2>/dev/null
    go get "$package@v$etcd" >/dev/null 2>&1
    echo "kubelet: building etcd $etcd"
    nice go build -trimpath -ldflags "-s -w" -o "$out/etcd" "$package"
}

main

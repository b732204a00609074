#!/bin/bash
# Builds a kubelet, and what a one-node cluster needs beside it, of one pinned release.
#
#   tests/kubelet/build.sh [--conformance] [DIR]     the programs land in DIR (default target/tools/kube)
#
# --conformance: also what Kubernetes' node conformance suite needs: itself, what runs it, and agnhost, of which it makes pods.
# Needs Go. Half an hour of two processors the first time; doing it again costs nothing.
set -euo pipefail

kubernetes=1.37.2
etcd=3.6.8
package=k8s.io/kubernetes
version=k8s.io/component-base/version minor=${kubernetes#1.}
stamp="-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%.*}"
programs=(kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
suite=
if [ "${1:-}" = --conformance ]; then suite=yes; shift; fi
repo=$(cd "$(dirname "$0")/../.." && pwd)
out=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$repo/target}/tools/kube}")

main() {
    is_built version && { [ -z "$suite" ] || is_built suite-version; } && return 0
    export PATH=$PATH:/usr/local/go/bin CGO_ENABLED=0 GOFLAGS=-mod=mod
    command -v go >/dev/null || { echo "kubelet: Go is needed to build it" >&2; exit 1; }
    mkdir -p "$out"
    # Not local: a trap looks at it.
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    kubernetes_module "$scratch/kubernetes"
    if ! is_built version; then
        build_programs
        etcd_module "$scratch/etcd"
        echo "$kubernetes $etcd" >"$out/version"
    fi
    if [ -n "$suite" ]; then
        cd "$scratch/kubernetes"
        build_suite
        echo "$kubernetes $etcd" >"$out/suite-version"
    fi
}

is_built() {
    [ "$(cat "$out/$1" 2>/dev/null)" = "$kubernetes $etcd" ]
}

# A module that requires it: its own go.mod names its neighbours as v0.0.0, which only its repository can resolve.
kubernetes_module() {
    local mod neighbour
    mkdir "$1"
    cd "$1"
    go mod init scratch 2>/dev/null
    mod=$(go mod download -json "$package@v$kubernetes" | sed -nE 's/^\s*"GoMod": "(.*)",?$/\1/p')
    go mod edit -go="$(sed -nE 's/^go //p' "$mod")" -godebug="default=go1.26" -require="$package@v$kubernetes"
    while read -r neighbour; do
        go mod edit -replace="$neighbour=$neighbour@v0.${kubernetes#1.}"
    done < <(sed -nE 's#^\s*(k8s.io/[a-z-]+) v0\.0\.0( .*)?$#\1#p' "$mod")
}

build_programs() {
    local program
    for program in "${programs[@]}"; do
        echo "kubelet: building $program $kubernetes"
        nice go build -trimpath -ldflags "$stamp" -o "$out/$program" "$package/cmd/$program"
    done
}

build_suite() {
    echo "kubelet: building the node conformance suite $kubernetes"
    nice go test -c -vet=off -trimpath -ldflags "$stamp" -o "$out/e2e_node.test" "$package/test/e2e_node"
    nice go build -trimpath -ldflags "$stamp" -o "$out/agnhost" "$package/test/images/agnhost"
    # Of agnhost's image too: what it shows as a server with TLS.
    install -m 0644 -t "$out" "$(go list -m -f '{{.Dir}}' "$package")"/test/images/agnhost/porter/localhost.{crt,key}
    # In the version that the suite has.
    nice go build -trimpath -ldflags "-s -w" -o "$out/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
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

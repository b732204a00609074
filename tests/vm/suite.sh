#!/bin/bash
# The tests of the daemon and of its cgroups on a node: systemd, cgroup v2 only, AppArmor; tests/run starts it in tests/vm/run.
#
#   tests/vm/suite.sh chosen     what the machine outside cannot run or runs otherwise
#   tests/vm/suite.sh critest    critest, all of it
#   tests/vm/suite.sh whole      everything, critest too
#   tests/vm/suite.sh NAME       the integration tests whose names contain NAME
#
# CARGO_TARGET_DIR and INRO_BIN as for the tests themselves; INRO_IT and INRO_UNIT are the test programs.
set -uo pipefail

# What an emulated processor takes too long for; calls wait for their clients for a minute at most.
slow=(twenty_pods_outlive_fifty_kills_under_load a_thousand_calls_may_wait_and_no_more)

# What depends on the cgroup driver; a daemon chooses systemd here.
both=(cgroups:: oom:: update:: bad_fields::sandboxes config::it_says pods::)

chosen=(cgroups:: oom:: update:: userns:: apparmor:: service:: systemd:: systemd_driver:: reboot:: layer_quota::)

main() {
    # Folders on a disk, as a node has them: /tmp is a tmpfs here.
    export INRO_SKIPS=/run/skipped TMPDIR=/var/tmp
    # Copies: a build on the host meanwhile does not change the daemon between two of its starts.
    cp "$INRO_BIN" /usr/local/bin/inro
    cp "$INRO_UNIT" /run/unit
    cp "$INRO_IT" /run/it
    export INRO_BIN=/usr/local/bin/inro
    local failed=0
    case $1 in
    chosen)
        unit || failed=1
        integration "${chosen[@]}" || failed=1
        critest --focus 'AppArmor|UserNamespaces' || failed=1
        ;;
    whole)
        unit || failed=1
        integration || failed=1
        INRO_CGROUP_DRIVER=cgroupfs integration "${both[@]}" || failed=1
        critest || failed=1
        ;;
    critest) critest || failed=1 ;;
    *) integration "$1" || failed=1 ;;
    esac
    [ "$1" != whole ] && [ "$1" != chosen ] || static_pods || failed=1
    [ ! -e "$INRO_SKIPS" ] || sed 's/^/skipped: /' "$INRO_SKIPS"
    return "$failed"
}

unit() {
    /run/unit --test-threads=1 cgroup:: sys::bpf an_sctp_port
}

integration() {
    local skips=() name
    if [ "${INRO_TIME_FACTOR:-1}" != 1 ]; then
        for name in "${slow[@]}"; do
            skips+=(--skip "$name")
            echo "left out: $name: too slow on an emulated processor"
        done
    fi
    /run/it --test-threads=1 "${skips[@]}" "$@"
}

# A kubelet takes a quarter of an hour to build: looked for, not made.
static_pods() {
    if [ -e "$CARGO_TARGET_DIR/tools/kube/version" ]; then
        "$(dirname "$0")/../kubelet/run.py" --inro "$INRO_BIN" probes discovers_the_cgroup_driver
    else
        echo "left out: a kubelet's static pod: tests/kubelet/build.sh was not run"
    fi
}

critest() {
    "$(dirname "$0")/../critest/run.py" --inro "$INRO_BIN" "$@"
}

# One line: bash reads on behind it, and the file may have been edited meanwhile.
main "$@"; exit

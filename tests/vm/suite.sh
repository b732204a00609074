#!/bin/bash
# The tests of the daemon and of its cgroups on a machine with cgroup v2 only; tests/run starts it in tests/vm/run.
#
#   tests/vm/suite.sh [NAME]     of the integration tests those whose names contain NAME, and nothing of critest
#
# CARGO_TARGET_DIR and INRO_BIN as for the tests themselves; INRO_IT and INRO_UNIT are the test programs.
set -uo pipefail

# What an emulated processor takes too long for.
slow=(
    twenty_pods_outlive_fifty_kills_under_load
)

# What depends on the cgroup driver.
both=(cgroups:: oom:: update:: bad_fields::sandboxes config::it_says pods::)

main() {
    # Folders on a disk, as a node has them: /tmp is a tmpfs here.
    export INRO_SKIPS=/run/skipped TMPDIR=/var/tmp
    # Copies: a build on the host meanwhile does not change the daemon between two of its starts.
    cp "$INRO_BIN" /usr/local/bin/inro
    cp "$INRO_UNIT" /run/unit
    cp "$INRO_IT" /run/it
    export INRO_BIN=/usr/local/bin/inro
    local skips=() name failed=0
    if [ "${INRO_TIME_FACTOR:-1}" != 1 ]; then
        for name in "${slow[@]}"; do
            skips+=(--skip "$name")
            echo "left out: $name: too slow on an emulated processor"
        done
    fi
    /run/unit --test-threads=1 cgroup:: sys::bpf || failed=1
    # The driver that a daemon chooses here is systemd; what depends on it once more with the other.
    /run/it --test-threads=1 "${skips[@]}" "$@" || failed=1
    if [ $# = 0 ]; then
        INRO_CGROUP_DRIVER=cgroupfs /run/it --test-threads=1 "${both[@]}" || failed=1
    fi
    # What of critest the machine outside cannot run.
    [ $# != 0 ] || critest --focus AppArmor || failed=1
    [ ! -e "$INRO_SKIPS" ] || sed 's/^/skipped: /' "$INRO_SKIPS"
    return "$failed"
}

critest() {
    "$(dirname "$0")/../critest/run.py" --inro "$INRO_BIN" "$@"
}

# One line: bash reads on behind it, and the file may have been edited meanwhile.
main "$@"; exit

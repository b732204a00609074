#!/bin/bash
# Compiles the profiles anew after their text or `features` changed; commit the result. Needs apparmor_parser.
#
# `features` says what the kernel can that the policy is compiled for: what Linux 4.14 could, the first to mediate mounts,
# signals and ptrace. A newer kernel takes an older policy and leaves alone what that policy does not know.
set -euo pipefail

cd "$(dirname "$0")"
apparmor_parser --skip-kernel-load --skip-cache --stdout \
    --policy-features=features --kernel-features=features inro-default >inro-default.bin

#!/usr/bin/env python3
"""The time from `systemctl start` of a runtime and a kubelet to a static pod: inro and Debian's containerd in turn.

    tests/kubelet/boot.py [ROUNDS]    in the guest of tests/vm

Figures of an emulated processor compare only with each other.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import services  # noqa: E402
from node import servers, until  # noqa: E402
from services import IMAGE, PAUSE, RUNTIMES, crictl, is_ready, pod, systemctl  # noqa: E402


def compare(rounds):
    """Each round starts from nothing but images on a disk, and with cold caches."""
    services.install()
    services.write_pod("web", [services.web()])
    for runtime, (units, _) in RUNTIMES.items():
        systemctl("start", *units)
        for image in (IMAGE, PAUSE):
            crictl(runtime, "pull", image)
        systemctl("stop", *units)
    times = {runtime: [] for runtime in RUNTIMES}
    for number in range(1, rounds + 1):
        for runtime in RUNTIMES:
            running, ready = times_to_start(runtime)
            times[runtime].append((running, ready))
            print(f"boot: {runtime}: round {number}: Running after {running:.1f} s, Ready after {ready:.1f} s", flush=True)
            reset(runtime)
    for runtime, measured in times.items():
        running, ready = (statistics.median(column) for column in zip(*measured))
        print(f"boot: {runtime}: median of {rounds}: Running after {running:.1f} s, Ready after {ready:.1f} s", flush=True)


def times_to_start(runtime):
    services.write_kubelet_config(runtime)
    subprocess.run(["sync"], check=True)
    servers.write("/proc/sys/vm/drop_caches", "3")
    began = time.monotonic()
    systemctl("start", *RUNTIMES[runtime][0], "kubelet.service")
    until("the pod runs", 120, lambda: pod("web").get("status", {}).get("phase") == "Running")
    running = time.monotonic() - began
    until("the pod is ready", 60, lambda: is_ready("web"))
    return running, time.monotonic() - began


def reset(runtime):
    systemctl("stop", "kubelet.service")
    for sandbox in services.sandboxes(runtime):
        crictl(runtime, "rmp", "-f", sandbox)
    systemctl("stop", *RUNTIMES[runtime][0], "kubepods.slice")
    shutil.rmtree("/var/lib/kubelet")


if __name__ == "__main__":
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else 3)

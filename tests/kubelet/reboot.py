#!/usr/bin/env python3
"""A node is switched off with its pods and started again: what is gone, what is still there, and what comes back.

    tests/vm/run ... --reboot 'tests/kubelet/reboot.py after' -- 'tests/kubelet/reboot.py before'
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import services  # noqa: E402
from node import servers, until  # noqa: E402
from services import FOLDER, IMAGE, RUNTIMES, containers, crictl, is_ready, output, sandboxes, systemctl  # noqa: E402


def before():
    """A node whose services its next boot starts, with a pod that has an address and one that shares its processes."""
    services.install()
    systemctl("start", *RUNTIMES["inro"][0])
    crictl("inro", "pull", IMAGE)
    services.write_pod("web", [services.web()])
    # Ends when told: what does not is waited for, 90 s, whoever runs it.
    services.write_pod("shared", [services.shell("it", "trap exit TERM; while :; do sleep 1; done")], shareProcessNamespace=True)
    services.write_kubelet_config("inro")
    systemctl("add-wants", "vm.target", *RUNTIMES["inro"][0], "kubelet.service")
    systemctl("start", "kubelet.service")
    for name in ("web", "shared"):
        until(f"{name} is ready", 120, lambda: is_ready(name))
    old = {"ids": [*sandboxes("inro"), *containers("inro")], "images": images()}
    assert len(old["ids"]) == 4, old
    servers.write(f"{FOLDER}/old.json", json.dumps(old))


def pods_come_back():
    """Nobody starts anything, and no registry is there."""
    for name in ("web", "shared"):
        until(f"{name} is ready", 120, lambda: is_ready(name))
    with open("/proc/uptime") as uptime:
        print(f"kubelet: the pods are ready {uptime.read().split()[0]} s after the kernel's start")


def pods_of_the_old_boot_are_gone():
    now = [*sandboxes("inro"), *containers("inro")]
    assert not set(now) & set(old()["ids"]), now


def images_are_still_there():
    assert images() == old()["images"], images()


def addresses_are_released():
    leases = "/var/lib/inro/net/leases"
    holders = [open(f"{leases}/{name}").read().strip() for name in os.listdir(leases)]
    assert holders and set(holders) <= set(sandboxes("inro")), holders


def no_unit_is_left():
    nowhere(output("systemctl", "list-units", "--all", "--no-legend", "--no-pager", "--full"))
    nowhere(output("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--full"))


def no_mount_is_left():
    nowhere(open("/proc/self/mountinfo").read())


def no_cgroup_or_file_is_left():
    # The logs of the old boot are the kubelet's.
    for top in ("/sys/fs/cgroup", "/var/lib/inro", "/run"):
        nowhere("\n".join(f"{folder}/{name}" for folder, folders, files in os.walk(top) for name in folders + files))


AFTER = [pods_come_back, pods_of_the_old_boot_are_gone, images_are_still_there, addresses_are_released, no_unit_is_left,
         no_mount_is_left, no_cgroup_or_file_is_left]


def images():
    return sorted(image["id"] for image in json.loads(crictl("inro", "images", "-o", "json"))["images"])


def old():
    with open(f"{FOLDER}/old.json") as file:
        return json.load(file)


def nowhere(text):
    """No line has an id of the old boot."""
    found = [line for line in text.splitlines() if any(known in line for known in old()["ids"])]
    assert not found, "\n".join(found[:20])


if __name__ == "__main__":
    services.run_checks(AFTER if sys.argv[1:] == ["after"] else [before])

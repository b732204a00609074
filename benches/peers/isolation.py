"""Namespaces in which daemons, their containers, mounts, links and rules live, and with which they end.

The process, mount and network namespaces are made by a process that stays outside. It removes what no namespace holds: the
working folder and the control groups. Inside, the first process is ours, and when it ends the kernel ends all others.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

# How runtimes call the control groups of pods that name no parent.
CGROUPS = ("inro", "k8s.io", "crio")
# Where runtimes and plugins keep things, some of them whatever their configuration says.
HIDDEN = ["/run", "/var/lib/cni", "/var/lib/containers"]


def run_inside(command):
    """Runs `command` with `--inside WORK` behind its second word in the namespaces; its exit code. WORK is on a disk."""
    work = tempfile.mkdtemp(prefix="peers-", dir="/var/tmp")
    before = cgroups()
    made = [folder for folder in HIDDEN if not os.path.exists(folder)]
    for folder in made:
        os.mkdir(folder)
    try:
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return wait_or_end(subprocess.Popen([*namespaces, *command[:2], "--inside", work, *command[2:]]))
    finally:
        remove_cgroups(cgroups() - before)
        shutil.rmtree(work)
        for folder in made:
            os.rmdir(folder)


def wait_or_end(unshare):
    """Its exit code. When we are interrupted or told to end, the first process inside ends and with it all others."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return unshare.wait()
    except KeyboardInterrupt:
        # Not unshare itself: it ends when nobody is inside any more, so that what they used can be removed.
        for child in open(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read().split():
            os.kill(int(child), signal.SIGKILL)
        unshare.wait()
        return 130


def prepare(work):
    """Makes the namespaces, which this process is the first in, fit for daemons; temporary files belong in `work`."""
    # The first process of a namespace gets no signal that it does not handle: an interrupt is the command's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    hide_folders()
    os.environ["TMPDIR"] = f"{work}/tmp"
    os.mkdir(os.environ["TMPDIR"])
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def hide_folders():
    # Where names are resolved may be written below /run; runtimes copy it into pods.
    resolver = os.path.realpath("/etc/resolv.conf")
    text = open(resolver).read() if os.path.exists(resolver) else ""
    for folder in HIDDEN:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    if not os.path.exists(resolver):
        os.makedirs(os.path.dirname(resolver), exist_ok=True)
        open(resolver, "w").write(text)


def wait_for(process):
    """Its exit code. Meanwhile everybody who lost their parent and ends is taken note of: the kernel leaves that to us."""
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            return os.waitstatus_to_exitcode(status)


def cgroups():
    """Those that runtimes made, ours or the machine's."""
    folders = (folder for folder, _, _ in os.walk("/sys/fs/cgroup"))
    return set(folder for folder in folders if any(part.startswith(CGROUPS) for part in folder.split("/")))


def remove_cgroups(left):
    # The innermost first. One that somebody else's runtime made meanwhile is in use, or gone.
    for folder in sorted(left, key=len, reverse=True):
        try:
            os.rmdir(folder)
        except OSError as error:
            print(f"peers: left: {folder}: {error.strerror}", file=sys.stderr)

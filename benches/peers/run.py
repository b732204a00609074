#!/usr/bin/env python3
"""Starts inro and its peers side by side, each with folders of its own and the tests' offline registry, and runs a command.

    benches/peers/run.py [--only NAME[,NAME]] COMMAND...

`{NAME}` in the command is that runtime's endpoint, `{endpoints}` all of them as `--endpoint NAME=SOCKET ...`. Needs root, what
`tests/run` prepares, and for each peer its Debian packages: containerd, runc, crun, containernetworking-plugins.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{REPO}/tests")
import servers  # noqa: E402

# A bridge and addresses that no daemon of the node uses.
BRIDGE, SUBNET = "peers0", "10.89.240.0/24"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="inro,containerd-runc,containerd-crun")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    # Short: a shim's socket lies below it.
    work = tempfile.mkdtemp(prefix="peers-", dir="/run")
    running, endpoints = [], {}
    try:
        running.append(servers.start_registry(work))
        for name in arguments.only.split(","):
            process, endpoints[name] = start(name, f"{work}/{name}", f"{work}/hosts")
            running.append(process)
        every = " ".join(f"--endpoint {name}={endpoint}" for name, endpoint in endpoints.items())
        command = [word.format(endpoints=every, **endpoints) for word in arguments.command]
        words = shlex.split(command[0]) if len(command) == 1 else command
        code = subprocess.run(words, cwd=REPO).returncode
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
        end_shims(work)
        subprocess.run(["ip", "link", "delete", BRIDGE], stderr=subprocess.DEVNULL)
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(code)


def start(name, folder, hosts):
    os.makedirs(folder)
    if name == "inro":
        return servers.start_inro(servers.INRO, folder, hosts), f"unix://{folder}/cri.sock"
    servers.write(f"{folder}/cni/peers.conflist", CNI % (BRIDGE, SUBNET))
    servers.write(f"{folder}/config.toml", CONTAINERD.format(folder=folder, hosts=hosts, runtime=name.split("-")[1]))
    # crun refuses a hybrid host whose unified leg has controllers; it need not see it.
    prepare = "umount /sys/fs/cgroup/unified 2>/dev/null; " if name.endswith("crun") else ""
    # In a mount namespace of its own: what it leaves mounted ends with it.
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
               f"{prepare}mount --make-rshared / && exec containerd --config {folder}/config.toml"]
    return servers.start(command, f"{folder}/log", f"{folder}/cri.sock"), f"unix://{folder}/cri.sock"


CONTAINERD = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", \
"io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{folder}/cri.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.9"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{hosts}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runtime}"
Root = "{folder}/{runtime}"
"""

CNI = """{"cniVersion": "0.4.0", "name": "peers", "plugins": [
  {"type": "bridge", "bridge": "%s", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
"""


def end_shims(work):
    """containerd's shims outlive it; ours end with their containers, which the command removed."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = open(f"/proc/{pid}/cmdline").read()
        except OSError:
            continue
        if work in arguments and "containerd-shim" in arguments:
            os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    main()

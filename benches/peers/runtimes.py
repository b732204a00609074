"""The runtimes that are measured side by side: what each needs, how it is configured, how it is started."""

import os
import shutil
import sys

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{REPO}/tests")
import servers  # noqa: E402

NAMES = ["inro", "containerd-runc", "containerd-crun", "crio-crun"]
# Another revision of inro, for what a change gives; measured when it is named.
BEFORE = "inro-before"
# inro with layers as EROFS images; measured when it is named.
EROFS = "inro-erofs"
ALL = [*NAMES, BEFORE, EROFS]
PEERS = f"{servers.TOOLS}/peers"


def missing(names):
    """What is not there, and what to do about it; nothing when all is."""
    if os.geteuid() != 0:
        return "needs root: it makes namespaces, mounts and cgroups"
    if unknown := set(names) - {*ALL}:
        return f"no runtime is called {', '.join(sorted(unknown))}: there are {', '.join(ALL)}"
    if {"inro", EROFS} & set(names) and not os.path.exists(servers.INRO):
        return f"{servers.INRO} is missing: build it, or name another in INRO_BIN"
    if BEFORE in names and not os.path.exists(os.environ.get("INRO_BEFORE", "")):
        return f"{BEFORE} is the program that INRO_BEFORE names: there is none"
    if not os.path.exists(f"{servers.IMAGES}/registry"):
        return f"{servers.IMAGES} is missing: run tests/run once, or tests/images/build.py"
    if set(names) <= {"inro", BEFORE, EROFS}:
        return None
    if not os.path.exists(f"{PEERS}/version"):
        return f"{PEERS} is missing or half built: run benches/peers/build.sh"
    # The bridge plugin's way to masquerade.
    return None if shutil.which("iptables") else "iptables is not installed: run benches/peers/build.sh"


def start(name, work):
    """Starts it and waits for its socket, which is returned as an endpoint.

    Images and containers' files are below `work`, which is on a disk; sockets and states in /run, which is not. Each has a
    bridge and addresses of its own. Beside `work/hosts` the registry is in `work/registries.conf`.
    """
    number, state = ALL.index(name), f"/run/{name}"
    place = {
        "folder": f"{work}/{name}", "state": state, "socket": f"{state}/cri.sock", "hosts": f"{work}/hosts",
        "bridge": f"peers{number}", "subnet": f"10.89.{240 + number}.0/24", "peers": PEERS,
    }
    runtime, _, oci = name.partition("-")
    command = STARTS[runtime](place, oci)
    servers.start(command, f"{work}/{name}.log", place["socket"])
    return f"unix://{place['socket']}"


def inro(place, which):
    snapshotter = 'snapshotter = "erofs"' if which == "erofs" else ""
    servers.write(f"{place['folder']}/config.toml", INRO.format(snapshotter=snapshotter, **place))
    program = os.environ["INRO_BEFORE"] if which == "before" else servers.INRO
    return [program, "serve", "--config", f"{place['folder']}/config.toml"]


def containerd(place, oci):
    servers.write(f"{place['folder']}/cni/peers.conflist", CNI % place)
    servers.write(f"{place['folder']}/config.toml", CONTAINERD.format(oci=oci, **place))
    # It looks for its shim there.
    return apart(f"exec env PATH={PEERS}:$PATH containerd --config {place['folder']}/config.toml", oci)


def crio(place, oci):
    folder = place["folder"]
    servers.write(f"{folder}/cni/peers.conflist", CNI % place)
    servers.write(f"{folder}/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
    # The file of the user's whose home is $HOME is the one place of it that can be chosen.
    os.makedirs(f"{folder}/home/.config/containers")
    shutil.copy(f"{folder}/../registries.conf", f"{folder}/home/.config/containers")
    servers.write(f"{folder}/crio.conf", CRIO.format(oci=oci, **place))
    return apart(f"exec env HOME={folder}/home {PEERS}/crio --config {folder}/crio.conf --config-dir ''", oci)


def apart(command, oci):
    """The command in a mount namespace of its own."""
    # crun refuses a hybrid host whose unified leg has controllers; it need not see it.
    hide = "umount /sys/fs/cgroup/unified 2>/dev/null; " if oci == "crun" else ""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{hide}mount --make-rshared / && {command}"]


STARTS = {"inro": inro, "containerd": containerd, "crio": crio}

INRO = """root = "{folder}/root"
state = "{state}"
listen = "unix://{socket}"
[image]
hosts_dir = "{hosts}"
{snapshotter}
[net]
bridge = "{bridge}"
subnet = "{subnet}"
"""

# Beside folders and names, one thing differs from the default: the score that no process may lower without CAP_SYS_RESOURCE.
CONTAINERD = """version = 4
root = "{folder}/root"
state = "{state}"
imports = []
[plugins."io.containerd.server.v1.grpc"]
address = "{socket}"
[plugins."io.containerd.server.v1.ttrpc"]
address = "{socket}.ttrpc"
[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{state}/s"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.nri.v1.nri"]
socket_path = "{state}/nri.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.9"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{hosts}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{peers}/cni"]
conf_dir = "{folder}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{peers}/{oci}"
Root = "{state}/oci"
"""

# As with containerd, but for the control groups: without systemd a monitor's are its pod's.
CRIO = """[crio]
root = "{folder}/root"
runroot = "{state}/storage"
storage_driver = "overlay"
log_dir = "{folder}/logs"
version_file = "{state}/version"
clean_shutdown_file = "{folder}/clean.shutdown"
[crio.api]
listen = "{socket}"
[crio.runtime]
cgroup_manager = "cgroupfs"
container_exits_dir = "{state}/exits"
container_attach_socket_dir = "{state}/attach"
namespaces_dir = "{state}/namespaces"
pinns_path = "{peers}/pinns"
default_runtime = "{oci}"
[crio.runtime.runtimes.{oci}]
runtime_path = "{peers}/{oci}"
runtime_root = "{state}/oci"
monitor_path = "{peers}/conmon"
monitor_cgroup = "pod"
[crio.image]
pause_image = "registry.k8s.io/pause:3.9"
signature_policy = "{folder}/policy.json"
signature_policy_dir = "{folder}/policies"
[crio.network]
network_dir = "{folder}/cni"
plugin_dirs = ["{peers}/cni"]
[crio.nri]
nri_listen = "{state}/nri.sock"
"""

CNI = """{"cniVersion": "1.0.0", "name": "%(bridge)s", "plugins": [
  {"type": "bridge", "bridge": "%(bridge)s", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "%(subnet)s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
"""

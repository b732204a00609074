"""The tests' offline registry, and how a server that was started is waited for: shared by critest and the benchmarks."""

import os
import socket
import subprocess
import sys
import time

REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", f"{REPO}/target")
TOOLS = f"{TARGET}/tools"
IMAGES = f"{TARGET}/test-images"
INRO = os.environ.get("INRO_BIN", f"{TARGET}/{os.uname().machine}-unknown-linux-musl/release/inro")
# Behind each of these names is the one registry.
REGISTRIES = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io", "quay.io"]


def start_registry(work, images=IMAGES):
    """Starts it, and writes what leads every public name to it: `work/hosts`, and for CRI-O `work/registries.conf`."""
    port = free_port()
    write(f"{work}/registry.yml", f"""version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{images}/registry"}}, maintenance: {{readonly: {{enabled: true}}}}}}
http: {{addr: "127.0.0.1:{port}"}}
""")
    for name in REGISTRIES:
        write(f"{work}/hosts/{name}/hosts.toml", f'[host."http://127.0.0.1:{port}"]\ncapabilities = ["pull", "resolve"]\n')
    mirror = '[[registry]]\nprefix = "{}"\nlocation = "127.0.0.1:{}"\ninsecure = true\n'
    write(f"{work}/registries.conf", "".join(mirror.format(name, port) for name in REGISTRIES))
    return start(["docker-registry", "serve", f"{work}/registry.yml"], f"{work}/registry.log", ("127.0.0.1", port))


def start_inro(inro, folder, hosts):
    """A daemon whose folders and socket, `cri.sock`, are in `folder`, and its networks of plugins in `net.d`, if any are there."""
    plugins = f'[net.cni]\nconf_dir = "{folder}/net.d"\nbin_dirs = ["{TOOLS}/cni/usr/lib/cni"]\n'
    write(f"{folder}/config.toml", f'[image]\nhosts_dir = "{hosts}"\n{plugins}')
    command = [inro, "serve", "--config", f"{folder}/config.toml", "--root", f"{folder}/root", "--state", f"{folder}/state",
               "--listen", f"unix://{folder}/cri.sock"]
    return start(command, f"{folder}/log", f"{folder}/cri.sock")


def start(command, log, address):
    """Starts a server and waits until `address`, a socket's path or a host and port, accepts a connection."""
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    for _ in range(400):
        if accepts(address):
            return process
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended with {process.returncode}:\n{open(log).read()[-4000:]}")
        time.sleep(0.05)
    sys.exit(f"{command[0]} is not ready after 20 s:\n{open(log).read()[-4000:]}")


def accepts(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)

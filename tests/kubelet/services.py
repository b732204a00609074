"""A node as systemd runs it: the runtime and a kubelet are services, static pods are files. It changes the machine for good,
so it is for the guest of tests/vm only.
"""

import json
import os
import shutil
import subprocess
import sys
import traceback
import urllib.request

from node import ADDRESS, FACTOR, KUBE, NAME, servers

UNITS, FOLDER = "/etc/systemd/system", "/var/lib/node"
IMAGE, PAUSE = "docker.io/library/shell:latest", "registry.k8s.io/pause:3.9"
# Units and socket of each runtime.
RUNTIMES = {"inro": (["inro.socket", "inro.service"], "/run/inro/inro.sock"),
            "containerd": (["containerd.service"], "/run/containerd/containerd.sock")}

KUBELET_SERVICE = f"""[Unit]
After=inro.service containerd.service
[Service]
# An address on a link with the default route, as a kubelet wants.
ExecStartPre=sh -c 'ip link show node0 || ip link add node0 type dummy'
ExecStartPre=ip address replace {ADDRESS}/24 dev node0
ExecStartPre=ip link set node0 up
ExecStartPre=ip route replace default dev node0
ExecStart=/usr/local/bin/kubelet --config={FOLDER}/kubelet.json --hostname-override={NAME} --node-ip={ADDRESS}
Restart=always
KillMode=process
"""

# What a node has that follows the manuals of both: systemd's cgroups, and a bridge with the way out and host ports.
CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{FOLDER}/hosts"
"""
BRIDGE = {"cniVersion": "1.0.0", "name": "node", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": True}}]}


def install():
    """Programs, units and configurations, on the disk; and the tests' registry, until the machine goes off."""
    if os.uname().nodename != "vm":
        sys.exit("kubelet: this would change the machine for good; tests/vm/run has one to throw away")
    os.makedirs(f"{FOLDER}/pods")
    shutil.copy(servers.INRO, "/usr/local/bin/inro")
    shutil.copy(f"{KUBE}/kubelet", "/usr/local/bin/kubelet")
    for unit in ("inro.service", "inro.socket"):
        shutil.copy(f"{servers.REPO}/contrib/{unit}", UNITS)
    servers.write(f"{UNITS}/kubelet.service", KUBELET_SERVICE)
    servers.write("/etc/containerd/config.toml", CONTAINERD)
    servers.write("/etc/cni/net.d/10-node.conflist", json.dumps(BRIDGE))
    servers.start_registry(FOLDER)
    servers.write("/etc/inro/config.toml", f'[image]\nhosts_dir = "{FOLDER}/hosts"\n')
    systemctl("daemon-reload")


def write_kubelet_config(runtime):
    servers.write(f"{FOLDER}/kubelet.json", json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{RUNTIMES[runtime][1]}", "staticPodPath": f"{FOLDER}/pods",
        # For a runtime that cannot tell it, as containerd before 2.0.
        "cgroupDriver": "cgroupfs" if runtime == "inro" else "systemd",
        "readOnlyPort": 10255, "makeIPTablesUtilChains": False, "runtimeRequestTimeout": f"{120 * FACTOR}s",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"}}))


def write_pod(name, containers, **spec):
    servers.write(f"{FOLDER}/pods/{name}.json", json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 5, **spec}}))


def web():
    probe = {"httpGet": {"port": 8080, "path": "/ok"}, "periodSeconds": 1, "timeoutSeconds": 2 * FACTOR}
    return {**shell("web", "mkdir /w; echo ok >/w/ok; trap exit TERM; httpd -f -h /w -p 8080 & wait"), "readinessProbe": probe}


def shell(name, script):
    return {"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}


def pod(name):
    """As the kubelet sees it; nothing while it does not."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:10255/pods", timeout=10 * FACTOR) as answer:
            pods = json.load(answer)["items"] or []
    except OSError:
        return {}
    return next((pod for pod in pods if pod["metadata"]["name"] == f"{name}-{NAME}"), {})


def is_ready(name):
    conditions = pod(name).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def sandboxes(runtime):
    return [sandbox["id"] for sandbox in json.loads(crictl(runtime, "pods", "-o", "json"))["items"]]


def containers(runtime):
    return [container["id"] for container in json.loads(crictl(runtime, "ps", "-a", "-o", "json"))["containers"]]


def crictl(runtime, *arguments):
    endpoint = f"unix://{RUNTIMES[runtime][1]}"
    return output(f"{servers.TOOLS}/crictl", "-r", endpoint, "-i", endpoint, "-t", f"{30 * FACTOR}s", *arguments)


def systemctl(*arguments):
    output("systemctl", *arguments)


def output(*command):
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode == 0, f"{' '.join(command)}: {result.returncode}: {result.stdout[-500:]}{result.stderr[-1000:]}"
    return result.stdout


def run_checks(checks):
    """Runs each, and ends the process with what came of them."""
    failed = 0
    for check in checks:
        try:
            check()
            print(f"kubelet: ok: {check.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"kubelet: FAILED: {check.__name__}\n{traceback.format_exc()}", flush=True)
    if failed:
        subprocess.run(["journalctl", "--no-pager", "-n", "150", "-u", "inro", "-u", "kubelet", "-u", "containerd"])
    print(f"{len(checks) - failed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)

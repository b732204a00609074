"""A node of its own on this machine: registry, inro, kubelet and, when wanted, a control plane, seen by nobody outside.

Everything runs in the network and mount namespaces that `run.py` made. The node's address is on a link with the
default route, as a kubelet wants; what the kubelet hard-codes below /var is on tmpfs.
"""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import servers  # noqa: E402

KUBE = f"{servers.TOOLS}/kube"
ADDRESS, SERVICES, NAME = "10.99.0.1", "10.98.0.0/16", "node"
# The kubelet's, where systemd makes the cgroups.
SLICE = "/kubepods.slice"
FACTOR = int(os.environ.get("INRO_TIME_FACTOR", "1"))
ISOLATED = "INRO_KUBELET_ISOLATED"
# What a kubelet changes for the whole machine.
TUNABLES = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
            "kernel/keys/root_maxbytes"]


def isolate():
    """Starts this program again in network and mount namespaces of its own, unless it is there."""
    if ISOLATED not in os.environ:
        os.environ[ISOLATED] = "1"
        # Shared again inside: volumes that a pod mounts must reach the kubelet and back.
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "slave", "sh", "-ec",
                              'mount --make-rshared / && exec "$@"', "sh", sys.executable, *sys.argv])


class Node:
    """Started programs, by name, and where their files are."""

    def __init__(self, work, inro, cluster):
        self.work, self.inro, self.cluster = work, inro, cluster
        self.programs = {}
        self.socket = f"{work}/inro/cri.sock"
        self.manifests = f"{work}/manifests"
        self.cgroup = None
        self.tunables = {name: read(f"/proc/sys/{name}") for name in TUNABLES if os.path.exists(f"/proc/sys/{name}")}

    def start(self):
        self.make_host()
        self.programs["registry"] = servers.start_registry(self.work)
        self.start_inro()
        self.choose_cgroup()
        if self.cluster:
            self.start_control_plane()
        self.start_kubelet()
        if self.cluster:
            self.start_proxy()

    def make_host(self):
        os.makedirs("/var/lib/kubelet", exist_ok=True)
        for command in ("ip link set lo up", "ip link add node0 type veth peer node1", f"ip address add {ADDRESS}/24 dev node0",
                        "ip link set node0 up", "ip link set node1 up", "ip route add default dev node0",
                        "mount -t tmpfs none /var/log", "mount -t tmpfs none /var/lib/kubelet"):
            subprocess.run(command.split(), check=True)
        os.makedirs(self.manifests)

    def start_inro(self):
        self.programs["inro"] = servers.start_inro(self.inro, f"{self.work}/inro", f"{self.work}/hosts")

    def choose_cgroup(self):
        """Where the kubelet has its cgroups, by the driver that it will find in the runtime."""
        if "SYSTEMD" in self.crictl("runtime-config"):
            # With a name of its own, that the kubelet knows.
            if cgroup_folders(SLICE):
                sys.exit("kubelet: this machine runs a kubelet of its own")
            self.cgroup = SLICE
        else:
            # Below a folder that it wants to find.
            self.cgroup = f"/{os.path.basename(self.work)}"
            for folder in cgroup_mounts():
                os.makedirs(folder + self.cgroup, exist_ok=True)

    def start_kubelet(self, **configuration):
        """With what is different from `write_kubelet_config`'s."""
        self.write_kubelet_config(configuration)
        command = [f"{KUBE}/kubelet", f"--config={self.work}/kubelet.json", f"--hostname-override={NAME}", f"--node-ip={ADDRESS}",
                   f"--root-dir={self.work}/kubelet", "--v=2"]
        if self.cluster:
            command.append(f"--kubeconfig={self.kubeconfig('kubelet', 'node-token')}")
        self.launch("kubelet", command)
        until("the kubelet answers", 120, lambda: self.alive("kubelet") and self.kubelet("healthz") == b"ok")

    def write_kubelet_config(self, configuration):
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.socket}", "staticPodPath": self.manifests,
            "cgroupRoot": "" if self.cgroup == SLICE else self.cgroup, "failCgroupV1": False, "failSwapOn": False,
            "address": "0.0.0.0", "port": 10250, "readOnlyPort": 10255, "podLogsDir": f"{self.work}/pods",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "makeIPTablesUtilChains": False,
            "fileCheckFrequency": "1s", "syncFrequency": "5s", "nodeStatusUpdateFrequency": "4s",
            "runtimeRequestTimeout": f"{120 * FACTOR}s", "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
            "containerLogMaxSize": "64Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
            "imageMinimumGCAge": "1s", "shutdownGracePeriod": "0s",
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "featureGates": {"PodAndContainerStatsFromCRI": True, "EventedPLEG": True, "CRIListStreaming": True,
                             "KubeletCrashLoopBackOffMax": True},
            **configuration,
        }
        servers.write(f"{self.work}/kubelet.json", json.dumps(config))

    def start_control_plane(self):
        work = self.work
        servers.write(f"{work}/tokens", 'admin-token,admin,admin,"system:masters"\n'
                                        f'node-token,system:node:{NAME},node,"system:nodes"\n')
        subprocess.run(["openssl", "genrsa", "-out", f"{work}/accounts.key", "2048"], check=True, stderr=subprocess.DEVNULL)
        self.launch("etcd", [f"{KUBE}/etcd", "--data-dir", f"{work}/etcd", "--unsafe-no-fsync", "--log-level", "warn"])
        self.launch("kube-apiserver", [
            f"{KUBE}/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={ADDRESS}",
            f"--cert-dir={work}/certificates", f"--service-cluster-ip-range={SERVICES}", f"--token-auth-file={work}/tokens",
            "--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default",
            f"--service-account-key-file={work}/accounts.key", f"--service-account-signing-key-file={work}/accounts.key",
            "--kubelet-preferred-address-types=InternalIP", "--allow-privileged"])
        self.admin = self.kubeconfig("admin", "admin-token")
        until("the API server is ready", 120, lambda: self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok")
        common = [f"--kubeconfig={self.admin}", "--leader-elect=false"]
        self.launch("kube-controller-manager", [
            f"{KUBE}/kube-controller-manager", *common, f"--service-account-private-key-file={work}/accounts.key",
            f"--root-ca-file={work}/certificates/apiserver.crt", "--use-service-account-credentials=false"])
        self.launch("kube-scheduler", [f"{KUBE}/kube-scheduler", *common])

    def start_proxy(self):
        servers.write(f"{self.work}/proxy.json", json.dumps({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
            "clientConnection": {"kubeconfig": self.admin}, "hostnameOverride": NAME, "clusterCIDR": "10.87.0.0/16",
            "conntrack": {"maxPerCore": 0}, "healthzBindAddress": "127.0.0.1:10256"}))
        self.launch("kube-proxy", [f"{KUBE}/kube-proxy", f"--config={self.work}/proxy.json"])

    def kubeconfig(self, name, token):
        path = f"{self.work}/{name}.kubeconfig"
        servers.write(path, json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]}))
        return path

    def launch(self, name, command):
        log = open(f"{self.work}/{name}.log", "a")
        self.programs[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.work, start_new_session=True)

    def alive(self, name):
        """True; an error when it has ended, with its last words."""
        if self.programs[name].poll() is not None:
            raise AssertionError(f"{name} ended with {self.programs[name].returncode}: {self.log(name)[-1000:]}")
        return True

    def kill(self, name):
        """SIGKILL, then what it was is gone."""
        self.programs[name].kill()
        self.programs.pop(name).wait()

    def log(self, name):
        path = f"{self.work}/inro/log" if name == "inro" else f"{self.work}/{name}.log"
        return open(path, errors="replace").read()

    def kubectl(self, *arguments, check=True, stdin=None, seconds=60):
        result = subprocess.run([f"{KUBE}/kubectl", f"--kubeconfig={self.admin}", *arguments], text=True, input=stdin,
                                stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True, timeout=seconds * FACTOR)
        if check and result.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {result.returncode}: {result.stdout[-500:]}{result.stderr[-1000:]}")
        return result

    def crictl(self, *arguments):
        command = [f"{servers.TOOLS}/crictl", "-r", f"unix://{self.socket}", "-i", f"unix://{self.socket}", "-t", f"{30 * FACTOR}s"]
        return subprocess.run([*command, *arguments], check=True, text=True, capture_output=True).stdout

    def kubelet(self, path):
        """What the kubelet's own server answers; None when it does not."""
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:10250/{path}", timeout=10 * FACTOR, context=context) as answer:
                return answer.read()
        except OSError:
            return None

    def pod(self, name):
        """A pod's object as the kubelet sees it; a static pod's name ends with the node's."""
        answer = self.kubelet("pods")
        pods = json.loads(answer)["items"] if answer else []
        return next((pod for pod in pods or [] if pod["metadata"]["name"] in (name, f"{name}-{NAME}")), None)

    def stop(self):
        for name in ("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            if name in self.programs:
                end(self.programs.pop(name))
        if "inro" not in self.programs:
            self.start_inro()
        for pod in self.crictl("pods", "-q").split():
            self.crictl("rmp", "-f", pod)
        for name in ("inro", "registry"):
            end(self.programs.pop(name))
        if self.cgroup == SLICE:
            # What lies below it stops with it.
            subprocess.run(["systemctl", "stop", SLICE[1:]], check=True)
        elif self.cgroup:
            for folder in cgroup_folders(self.cgroup):
                remove_cgroups(folder)
        for name, value in self.tunables.items():
            servers.write(f"/proc/sys/{name}", value)


def end(program):
    program.send_signal(signal.SIGTERM)
    try:
        program.wait(timeout=20 * FACTOR)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def cgroup_mounts():
    """Where each hierarchy is."""
    mounts = [line.split() for line in open("/proc/self/mounts")]
    return [mount[1] for mount in mounts if mount[2] in ("cgroup", "cgroup2") and mount[1].startswith("/sys/fs/cgroup")]


def cgroup_folders(path):
    """It in each hierarchy that has it."""
    return [folder + path for folder in cgroup_mounts() if os.path.isdir(folder + path)]


def remove_cgroups(folder):
    for place, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(place)
        except OSError as error:
            print(f"kubelet: left behind: {place}: {error.strerror}")


def until(what, seconds, probe):
    """The first true answer of `probe`; an error after `seconds`, scaled for slow machines."""
    deadline = time.monotonic() + seconds * FACTOR
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * FACTOR} s: {what}")
        time.sleep(0.2)


def read(path):
    with open(path) as file:
        return file.read()


def keep(files, kept=f"{servers.TARGET}/kubelet"):
    """Logs and reports, beside other results of tests; their ends where those cannot be written, as in a guest."""
    files = {name: path for name, path in files.items() if os.path.exists(path)}
    try:
        shutil.rmtree(kept, ignore_errors=True)
        os.makedirs(kept, exist_ok=True)
        for name, path in files.items():
            shutil.copy(path, f"{kept}/{name}")
        print(f"kubelet: logs are in {kept}")
    except OSError:
        for name, path in files.items():
            print(f"kubelet: the end of {name}:", *open(path, errors="replace").readlines()[-40:], sep="\n    ", flush=True)

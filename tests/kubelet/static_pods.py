"""Checks with static pods: manifests in a folder, seen through the kubelet's own server."""

import json
import os
import time

from node import FACTOR, NAME, servers, until

SHELL = "docker.io/library/shell:latest"


def probes(node):
    """Exec, HTTP and TCP probes make a pod ready; one that fails restarts its container."""
    put(node, "probes", [
        {**shell("web", "mkdir /w; echo ok >/w/ok; exec httpd -f -h /w -p 8080"),
         "startupProbe": probe({"tcpSocket": {"port": 8080}}), "readinessProbe": probe({"httpGet": {"port": 8080, "path": "/ok"}}),
         "livenessProbe": probe({"exec": {"command": ["cat", "/w/ok"]}})},
        {**shell("sick", "touch /well; sleep 3; rm /well; exec sleep 1000"),
         "livenessProbe": probe({"exec": {"command": ["cat", "/well"]}}, initialDelaySeconds=1)}], grace=1)
    ready(node, "probes", ["web"])
    until("the sick container is started again", 60, lambda: container(node, "probes", "sick")["restartCount"] > 0)
    assert container(node, "probes", "web")["restartCount"] == 0
    remove(node, "probes")


def discovers_the_cgroup_driver(node):
    """The kubelet has it from the runtime, not from its configuration, which does not name it."""
    told = "systemd" if "SYSTEMD" in node.crictl("runtime-config") else "cgroupfs"
    used = json.loads(node.kubelet("configz"))["kubeletconfig"]["cgroupDriver"]
    assert used == told, f"the kubelet uses {used}, the runtime told {told}"


def init_and_sidecar(node):
    """Init containers run in their order, a sidecar stays and ends last."""
    shared = {"name": "shared", "emptyDir": {}}
    mounts = [{"name": "shared", "mountPath": "/s"}]
    out = folder(node, "sidecar")
    put(node, "sidecar", [{**shell("main", "echo main >>/s/order; cat /s/order; trap 'echo main ends >>/o/order; exit' TERM; sleep 1000 & wait"),
                           "volumeMounts": mounts + [{"name": "out", "mountPath": "/o"}]}],
        init=[{**shell("first", "echo first >>/s/order"), "volumeMounts": mounts},
              {**shell("beside", "echo beside >>/s/order; trap 'echo beside ends >>/o/order; exit' TERM; sleep 1000 & wait"),
               "restartPolicy": "Always", "volumeMounts": mounts + [{"name": "out", "mountPath": "/o"}]},
              {**shell("last", "echo last >>/s/order"), "volumeMounts": mounts}],
        volumes=[shared, {"name": "out", "hostPath": {"path": out}}])
    ready(node, "sidecar", ["main"])
    assert logs(node, "sidecar", "main").split() == ["first", "beside", "last", "main"], logs(node, "sidecar", "main")
    remove(node, "sidecar")
    assert open(f"{out}/order").read() == "main ends\nbeside ends\n", open(f"{out}/order").read()


def restart_policies(node):
    """Always restarts what ended well, OnFailure what failed, Never nothing; the codes are told, the old log stays."""
    put(node, "always", [shell("it", "echo run; exit 0")], policy="Always")
    put(node, "on-failure", [shell("it", "echo run; exit 3")], policy="OnFailure")
    put(node, "never", [shell("it", "echo run; exit 4")], policy="Never")
    until("always restarts", 60, lambda: container(node, "always", "it")["restartCount"] > 0)
    until("on-failure restarts", 60, lambda: container(node, "on-failure", "it")["restartCount"] > 0)
    ended = until("never ends", 60, lambda: container(node, "never", "it")["state"].get("terminated"))
    assert (ended["exitCode"], ended["reason"]) == (4, "Error"), ended
    last = until("the last state", 30, lambda: container(node, "on-failure", "it")["lastState"].get("terminated"))
    assert last["exitCode"] == 3, last
    # Between two runs the former one is being put away.
    until("the former log", 30, lambda: logs(node, "on-failure", "it", "?previous=true") == "run\n")
    assert container(node, "never", "it")["restartCount"] == 0
    for name in ("always", "on-failure", "never"):
        remove(node, name)


def lifecycle_hooks_and_graceful_end(node):
    """postStart, preStop and TERM come in their order; the grace period is what a stubborn container gets."""
    out = folder(node, "hooks")
    mount = {"volumeMounts": [{"name": "out", "mountPath": "/o"}]}
    say = lambda text: {"exec": {"command": ["sh", "-c", f"echo {text} >>/o/order"]}}
    put(node, "hooks", [{**shell("it", "trap 'echo term >>/o/order; exit' TERM; sleep 1000 & wait"), **mount,
                         "lifecycle": {"postStart": say("started"), "preStop": say("stopping")}}],
        volumes=[{"name": "out", "hostPath": {"path": out}}], grace=20)
    put(node, "stubborn", [{**shell("it", "trap '' TERM; while :; do sleep 1; done")}], grace=2)
    ready(node, "hooks", ["it"])
    ready(node, "stubborn", ["it"])
    remove(node, "hooks")
    assert open(f"{out}/order").read() == "started\nstopping\nterm\n", open(f"{out}/order").read()
    remove(node, "stubborn")


def volumes(node):
    """emptyDir on disk and in memory, hostPath with a sub path, read-only."""
    host = folder(node, "host")
    servers.write(f"{host}/below/file", "of the host\n")
    put(node, "volumes", [{**shell("it", "cat /host/file; mount | grep ' /memory ' | cut -d' ' -f5; echo x >/disk/x && cat /disk/x; "
                                         "(echo x >/host/x) 2>/dev/null || echo read-only; exec sleep 1000"),
                           "volumeMounts": [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                                            {"name": "host", "mountPath": "/host", "subPath": "below", "readOnly": True}]}],
        volumes=[{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                 {"name": "host", "hostPath": {"path": host}}])
    ready(node, "volumes", ["it"])
    until("the log is whole", 30, lambda: logs(node, "volumes", "it").endswith("read-only\n"))
    assert logs(node, "volumes", "it") == "of the host\ntmpfs\nx\nread-only\n", logs(node, "volumes", "it")
    remove(node, "volumes")


def limits_and_oom(node):
    """A container that takes too much memory is told to be OOMKilled."""
    put(node, "oom", [{**shell("it", "x=0123456789; while :; do x=$x$x; done"), "resources": {"limits": {"memory": "32Mi", "cpu": "500m"}}}],
        policy="Never")
    ended = until("it is killed", 90, lambda: container(node, "oom", "it")["state"].get("terminated"))
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), ended
    remove(node, "oom")


def log_rotation(node):
    """The kubelet rotates a log that grows all the time; no line is lost or torn at a seam."""
    put(node, "chatty", [shell("it", 'i=0; while [ $i -lt 20000 ]; do echo "line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"; i=$((i+1)); '
                                     "[ $((i % 200)) = 0 ] && sleep 0.2; done; echo end; exec sleep 1000")])
    seen = {}

    def gather():
        pods = [name for name in os.listdir(f"{node.work}/pods") if "_chatty-" in name]
        where = f"{node.work}/pods/{pods[0]}/it" if pods else None
        for name in os.listdir(where) if where and os.path.isdir(where) else []:
            if not name.endswith((".gz", ".tmp")):
                try:
                    # What was read in the middle of a write ends before that line.
                    text = open(f"{where}/{name}").read().rpartition("\n")[0]
                    # By its first line, which has a time: a file is moved and grows, and numbers of inodes come back.
                    seen[text.split("\n", 1)[0]] = text
                except FileNotFoundError:
                    pass
        return any(text.endswith(" end") for text in seen.values())

    until("it has said all", 120, gather)
    lines = [line.split(" ", 3) for text in seen.values() for line in text.splitlines()]
    assert len(seen) > 3, f"{len(seen)} files: the log was not rotated"
    assert all(len(line) == 4 and line[1:3] == ["stdout", "F"] for line in lines), "a torn line"
    numbers = {int(line[3].split()[1]) for line in lines if line[3] != "end"}
    assert numbers == set(range(20000)), f"{20000 - len(numbers)} lines are nowhere"
    remove(node, "chatty")


def stats_for_eviction(node):
    """/stats/summary has what eviction and the metrics server need, from the CRI."""
    put(node, "counted", [shell("it", "head -c 1m /dev/urandom >/file; while :; do :; done")])
    ready(node, "counted", ["it"])

    def complete():
        summary = json.loads(node.kubelet("stats/summary"))
        pod = next((pod for pod in summary["pods"] if pod["podRef"]["name"] == f"counted-{NAME}"), None)
        if not pod or not pod.get("containers"):
            return None
        it = pod["containers"][0]
        values = [it["cpu"].get("usageNanoCores"), it["memory"].get("workingSetBytes"), it["rootfs"].get("usedBytes", 0) >= 1 << 20,
                  pod["network"].get("rxBytes") is not None, summary["node"]["runtime"]["imageFs"].get("usedBytes"),
                  summary["node"]["runtime"].get("containerFs", {}).get("capacityBytes")]
        return all(values)

    until("the summary is complete", 60, complete)
    metrics = node.kubelet("metrics/cadvisor").decode()
    for name in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_network_receive_bytes_total"):
        assert any(line.startswith(name) and "counted" in line for line in metrics.splitlines()), f"{name} of the pod is not there"
    remove(node, "counted")


def image_volume(node):
    """An image as a volume, read-only."""
    put(node, "image-volume", [{**shell("it", "ls /image/bin/pause && ! touch /image/x 2>/dev/null && echo read-only; exec sleep 1000"),
                                "volumeMounts": [{"name": "image", "mountPath": "/image"}]}],
        volumes=[{"name": "image", "image": {"reference": "docker.io/library/tiny:latest", "pullPolicy": "IfNotPresent"}}])
    ready(node, "image-volume", ["it"])
    until("it says so", 30, lambda: logs(node, "image-volume", "it") == "/image/bin/pause\nread-only\n")
    remove(node, "image-volume")


def user_namespace(node):
    """hostUsers: false: root inside is nobody of importance outside, also on a volume."""
    put(node, "userns", [{**shell("it", "cat /proc/self/uid_map; echo x >/v/x && stat -c %u /v/x; exec sleep 1000"),
                          "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        volumes=[{"name": "v", "emptyDir": {}}], spec={"hostUsers": False})
    ready(node, "userns", ["it"])
    until("its log", 30, lambda: logs(node, "userns", "it").count("\n") == 2)
    inside, outside, size = logs(node, "userns", "it").split()[:3]
    assert inside == "0" and int(outside) >= 65536 and int(size) == 65536, logs(node, "userns", "it")
    assert logs(node, "userns", "it").split()[3] == "0", logs(node, "userns", "it")
    remove(node, "userns")


def daemon_dies_under_the_kubelet(node):
    """kill -9 and a new daemon, three times: no container restarts, the kubelet stays healthy, what ended meanwhile is told."""
    put(node, "steady", [{**shell("it", "exec httpd -f -p 8080"), "readinessProbe": probe({"tcpSocket": {"port": 8080}})}])
    put(node, "ending", [shell("it", "sleep 12; exit 7")], policy="Never")
    ready(node, "steady", ["it"])
    was = container(node, "steady", "it")
    for _ in range(3):
        node.kill("inro")
        time.sleep(2)
        node.start_inro()
        assert node.kubelet("healthz") == b"ok"
        time.sleep(4)
    ended = until("the other's end", 60, lambda: container(node, "ending", "it")["state"].get("terminated"))
    assert ended["exitCode"] == 7, ended
    now = container(node, "steady", "it")
    assert (now["containerID"], now["restartCount"], now["ready"]) == (was["containerID"], 0, True), now
    if node.cluster:
        events = node.kubectl("get", "events", "-A", "-o", "json").stdout
        assert "NodeNotReady" not in events
    remove(node, "steady")
    remove(node, "ending")


def the_kubelet_does_not_complain(node):
    """What its log must not have: a fallback from the CRI's stats or events, or a runtime that it does not know."""
    log = node.log("kubelet")
    bad = ["Unable to fetch container log stats", "Partial failure issuing cadvisor", "unknown runtime", "Failed to get pod stats",
           "Evented PLEG: failed", "falling back to", "deprecated CRI", "context deadline exceeded"]
    found = [line for line in log.splitlines() for word in bad if word in line and "connection refused" not in line]
    assert not found, "\n".join(found[:10])


CHECKS = [probes, discovers_the_cgroup_driver, init_and_sidecar, restart_policies, lifecycle_hooks_and_graceful_end, volumes,
          limits_and_oom, log_rotation, stats_for_eviction, image_volume, user_namespace, the_kubelet_does_not_complain,
          daemon_dies_under_the_kubelet]


def shell(name, script):
    return {"name": name, "image": SHELL, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}


def probe(action, **more):
    return {**action, "periodSeconds": 1 if FACTOR == 1 else 20, "timeoutSeconds": 2 * FACTOR, "failureThreshold": 3, **more}


def put(node, name, containers, init=(), volumes=(), policy="Always", grace=5, spec=None):
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"name": name}},
                "spec": {"containers": containers, "initContainers": list(init), "volumes": list(volumes), "restartPolicy": policy,
                         "terminationGracePeriodSeconds": grace, **(spec or {})}}
    # Not in its folder: the kubelet would read half a file.
    servers.write(f"{node.work}/{name}.json", json.dumps(manifest))
    os.rename(f"{node.work}/{name}.json", f"{node.manifests}/{name}.json")


def ready(node, name, containers):
    until(f"{name} is ready", 60, lambda: all(container(node, name, wanted)["ready"] for wanted in containers))


def container(node, pod, name):
    """Its status; one that waits when there is none yet."""
    found = node.pod(pod) or {"status": {}}
    statuses = found["status"].get("containerStatuses", []) + found["status"].get("initContainerStatuses", [])
    waiting = {"ready": False, "restartCount": 0, "state": {}, "lastState": {}}
    return next((status for status in statuses if status["name"] == name), waiting)


def logs(node, pod, name, query=""):
    return (node.kubelet(f"containerLogs/default/{pod}-{NAME}/{name}{query}") or b"").decode()


def folder(node, name):
    path = f"{node.work}/{name}"
    os.makedirs(path)
    return path


def remove(node, name):
    """The manifest goes, and with it all that runs of the pod. Its records are the kubelet's to collect, once a minute."""
    os.unlink(f"{node.manifests}/{name}.json")
    until(f"{name} has ended", 60, lambda: not node.crictl("pods", "-q", "--name", f"^{name}-{NAME}$", "--state", "ready").strip())

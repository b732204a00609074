"""Checks of a one-node cluster, through kubectl."""

import hashlib
import json
import os
import socket
import subprocess

from node import FACTOR, KUBE, until
from static_pods import SHELL, shell


def node_is_ready(node):
    """The node says what it runs, and is ready."""
    condition = '{.status.conditions[?(@.type=="Ready")].status}'
    until("the node is ready", 60, lambda: jsonpath(node, "node/node", condition) == "True")
    assert jsonpath(node, "node/node", "{.status.nodeInfo.containerRuntimeVersion}").startswith("inro://")
    until("the default account", 60, lambda: node.kubectl("get", "serviceaccount", "default", check=False).returncode == 0)


def deployment_service_and_rolling_update(node):
    """Three replicas behind a service; a rolling update leaves no request unanswered."""
    apply(node, deployment("web", 3, "one"), {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    rolled_out(node, "deployment/web")
    address = jsonpath(node, "service/web", "{.spec.clusterIP}")
    until("the service answers", 60, lambda: fetch(address, 80) == "one\n")
    apply(node, deployment("web", 3, "two"))
    answers = []
    until("the new ones answer", 120, lambda: answers.append(fetch(address, 80)) or answers[-10:] == ["two\n"] * 10)
    assert set(answers) == {"one\n", "two\n"}, set(answers)
    rolled_out(node, "deployment/web")
    delete(node, "deployment/web", "service/web")


def logs_follow(node):
    """kubectl logs -f gets every line in its order while the log is rotated."""
    run(node, shell("talker", 'i=0; while [ $i -lt 5000 ]; do echo "line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"; i=$((i+1)); '
                              "[ $((i % 100)) = 0 ] && sleep 0.2; done"), policy="Never")
    followed = node.kubectl("logs", "-f", "talker", seconds=120).stdout.splitlines()
    assert [line.split()[1] for line in followed] == [str(number) for number in range(5000)], f"{len(followed)} lines"
    delete(node, "pod/talker")


def exec_attach_and_debug(node):
    """exec with a terminal and without, its code and its stdin; attach; an ephemeral container."""
    run(node, {**shell("it", "while read line; do echo got $line; done"), "stdin": True})
    assert node.kubectl("exec", "it", "--", "sh", "-c", "echo out; echo err >&2; exit 3", check=False).returncode == 3
    assert node.kubectl("exec", "-i", "it", "--", "cat", stdin="through\n").stdout == "through\n"
    terminal = subprocess.run(["script", "-qec", f"{KUBE}/kubectl --kubeconfig={node.admin} exec -it it -- sh -c 'tty; stty size'", "/dev/null"],
                              input="", text=True, capture_output=True, timeout=60 * FACTOR).stdout
    assert "/dev/pts/" in terminal, terminal
    with subprocess.Popen([f"{KUBE}/kubectl", f"--kubeconfig={node.admin}", "attach", "-i", "it"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        client.stdin.write("hello\n")
        client.stdin.flush()
        assert client.stdout.readline() == "got hello\n"
        client.kill()
    node.kubectl("debug", "it", f"--image={SHELL}", "--target=it", "--container=probe", "--", "sh", "-c", "ps; sleep 1000")
    until("the ephemeral container sees its target", 60, lambda: "read line" in node.kubectl("logs", "it", "-c", "probe", check=False).stdout)
    delete(node, "pod/it")


def copy_there_and_back(node):
    """kubectl cp of 64 MiB, by hash."""
    run(node, shell("store", "exec sleep 1000"))
    source = f"{node.work}/noise"
    with open(source, "wb") as file:
        file.write(os.urandom(64 << 20))
    node.kubectl("cp", source, "store:/noise", seconds=120)
    node.kubectl("cp", "store:/noise", f"{node.work}/back", seconds=120)
    assert sha(source) == sha(f"{node.work}/back")
    delete(node, "pod/store")


def port_forward(node):
    """A request through kubectl port-forward."""
    run(node, shell("served", "mkdir /w; echo yes >/w/index.html; exec httpd -f -h /w -p 8080"))
    with subprocess.Popen([f"{KUBE}/kubectl", f"--kubeconfig={node.admin}", "port-forward", "pod/served", ":8080"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        port = int(client.stdout.readline().split(":")[1].split()[0])
        for _ in range(20):
            assert fetch("127.0.0.1", port) == "yes\n"
        client.kill()
    delete(node, "pod/served")


def jobs_and_daemon_sets(node):
    """A job of four completions, two at once, and a daemon set on the one node."""
    template = {"metadata": {"labels": {"app": "job"}}, "spec": {"restartPolicy": "Never", "containers": [shell("it", "sleep 1; echo done")]}}
    apply(node, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
                 "spec": {"completions": 4, "parallelism": 2, "template": template}})
    node.kubectl("wait", "--for=condition=complete", "job/job", f"--timeout={120 * FACTOR}s", seconds=130)
    apply(node, {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "each"},
                 "spec": {"selector": {"matchLabels": {"app": "each"}}, "template": {
                     "metadata": {"labels": {"app": "each"}}, "spec": {"containers": [shell("it", "exec sleep 1000")]}}}})
    rolled_out(node, "daemonset/each")
    delete(node, "job/job", "daemonset/each")


def configured_volumes(node):
    """Config map, secret and account token as volumes; a changed config map reaches the running container."""
    apply(node, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"key": "before"}},
          {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "secret"}})
    run(node, {**shell("reader", "exec sleep 1000"), "envFrom": [{"configMapRef": {"name": "settings"}}],
               "volumeMounts": [{"name": "all", "mountPath": "/all"}]},
        volumes=[{"name": "all", "projected": {"sources": [
            {"configMap": {"name": "settings", "items": [{"key": "key", "path": "settings"}]}},
            {"secret": {"name": "hidden", "items": [{"key": "key", "path": "hidden"}]}},
            {"serviceAccountToken": {"path": "token"}}]}}])
    look = lambda *command: node.kubectl("exec", "reader", "--", *command).stdout
    assert look("sh", "-c", "cat /all/settings /all/hidden; echo $key; wc -c </all/token | grep -c .") == "beforesecretbefore\n1\n"
    assert "ca.crt" in look("ls", "/var/run/secrets/kubernetes.io/serviceaccount")
    node.kubectl("patch", "configmap", "settings", "-p", '{"data":{"key":"after"}}')
    until("the change is seen", 180, lambda: look("cat", "/all/settings") == "after")
    delete(node, "pod/reader", "configmap/settings", "secret/hidden")


def resize_in_place(node):
    """A container's limits change while it runs: it does not restart, and the status tells what is applied."""
    limits = lambda cpu, memory: {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}
    run(node, {**shell("elastic", "exec sleep 1000"), "resources": limits("200m", "64Mi")})
    patch = json.dumps({"spec": {"containers": [{"name": "elastic", "resources": limits("400m", "96Mi")}]}})
    node.kubectl("patch", "pod", "elastic", "--subresource", "resize", "-p", patch)
    applied = lambda: json.loads(jsonpath(node, "pod/elastic", "{.status.containerStatuses[0].resources.limits}") or "{}")
    until("it is applied", 60, lambda: applied() == {"cpu": "400m", "memory": "96Mi"})
    assert jsonpath(node, "pod/elastic", "{.status.containerStatuses[0].restartCount}") == "0"
    limit = ("cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes",)
    assert node.kubectl("exec", "elastic", "--", "sh", "-c", *limit).stdout == f"{96 << 20}\n"
    delete(node, "pod/elastic")


def images_of_the_node(node):
    """The node tells its images; one that cannot be had is told as the reason."""
    names = {name for image in json.loads(jsonpath(node, "node/node", "{.status.images}")) for name in image["names"]}
    assert any(name.startswith("docker.io/library/shell") for name in names), names
    run(node, {**shell("lost", "true"), "image": "docker.io/library/no-such-image:latest"}, wait=False)
    reason = lambda: jsonpath(node, "pod/lost", "{.status.containerStatuses[0].state.waiting.reason}")
    until("the reason", 60, lambda: reason() in ("ErrImagePull", "ImagePullBackOff"))
    delete(node, "pod/lost")


def node_is_described(node):
    """What the node and its pods look like; kept beside the logs."""
    run(node, shell("seen", "exec sleep 1000"))
    told = node.kubectl("get", "pods", "-A", "-o", "wide").stdout + node.kubectl("describe", "node", "node").stdout
    with open(f"{node.work}/described.log", "w") as file:
        file.write(told)
    assert "Container Runtime Version:  inro://" in told, told
    delete(node, "pod/seen")


def disk_pressure_collects_images(node):
    """The last one: a kubelet that finds the disk too full by the runtime's figures removes the images that no pod uses."""
    node.crictl("pull", "docker.io/library/large:latest")
    node.kill("kubelet")
    node.start_kubelet(evictionHard={"imagefs.available": "99%"}, evictionPressureTransitionPeriod="5s")
    until("the unused image is gone", 120, lambda: "library/large" not in node.crictl("images"))
    condition = '{.status.conditions[?(@.type=="DiskPressure")].status}'
    until("the node says why", 60, lambda: jsonpath(node, "node/node", condition) == "True")


CHECKS = [node_is_ready, deployment_service_and_rolling_update, logs_follow, exec_attach_and_debug, copy_there_and_back, port_forward,
          jobs_and_daemon_sets, configured_volumes, resize_in_place, images_of_the_node, node_is_described, disk_pressure_collects_images]


def deployment(name, replicas, says):
    serve = shell("it", f"mkdir /w; echo {says} >/w/index.html; trap 'sleep 3; exit' TERM; httpd -f -h /w -p 8080 & wait")
    # Ended only when nothing leads to it any more, as a rolling update needs it.
    serve["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": FACTOR}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}}, "spec": {"containers": [serve], "terminationGracePeriodSeconds": 10}}}}


def run(node, container, policy="Always", volumes=(), wait=True):
    """A pod of one container, which has its name."""
    name = container["name"]
    apply(node, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "containers": [{**container, "imagePullPolicy": "IfNotPresent"}], "restartPolicy": policy, "volumes": list(volumes),
        "terminationGracePeriodSeconds": 1}})
    if wait and policy == "Always":
        node.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={60 * FACTOR}s", seconds=70)
    elif wait:
        until(f"{name} is started", 60, lambda: jsonpath(node, f"pod/{name}", "{.status.phase}") in ("Running", "Succeeded", "Failed"))


def apply(node, *objects):
    node.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def delete(node, *objects):
    node.kubectl("delete", *objects, "--wait", f"--timeout={60 * FACTOR}s", seconds=70)


def rolled_out(node, thing):
    node.kubectl("rollout", "status", thing, f"--timeout={120 * FACTOR}s", seconds=130)


def jsonpath(node, thing, path):
    return node.kubectl("get", thing, "-o", f"jsonpath={path}", check=False).stdout


def fetch(address, port):
    """The body that an HTTP server answers; what went wrong when it does not."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer.split(b"\r\n\r\n", 1)[1].decode()
    except (OSError, IndexError) as error:
        return str(error)


def sha(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

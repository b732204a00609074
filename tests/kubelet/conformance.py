#!/usr/bin/env python3
"""Runs Kubernetes' own node conformance suite against inro.

    tests/kubelet/conformance.py [--inro FILE] [--procs N] [--timeout TIME] [--keep] [--focus REGEX] [--skip REGEX] [FILE...]

FILE chooses specs by the source file that has them (`container_probe`), REGEX by their names; nothing is all of them:
labelled NodeConformance, and not Serial, Slow, Disruptive or Flaky. Needs root, what `tests/run` prepares and
`tests/kubelet/build.sh --conformance` built. The suite starts etcd, an API server and the kubelet, all in network and
mount namespaces of their own. At the end: each spec that failed or was skipped with the reason, and
`N passed, N failed, N skipped`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import conformance_images  # noqa: E402
from node import ADDRESS, FACTOR, KUBE, NAME, Node, isolate, keep, servers  # noqa: E402

IMAGES = f"{servers.TARGET}/conformance-images"
CHOSEN = "NodeConformance && !Serial && !Slow && !Disruptive && !Flaky"
# The suite hands them to the kubelet, and leaves out what they take away (what cAdvisor measures).
GATES = "PodAndContainerStatsFromCRI=true"
# What this machine, or the images that we make, cannot have, by the specs' names.
LEFT_OUT = {
    "Kubelet Cgroup Manager": "looks for pods below the root cgroup; the kubelet has a cgroup of its own here",
    "PodOverhead cgroup accounting": "looks for pods below the root cgroup; the kubelet has a cgroup of its own here",
    "Summary API when querying /stats/summary": "wants all other processes of the machine in a cgroup that the kubelet moved them to",
    "node-pod communication: udp": "agnhost's image has an nc that speaks UDP; ours has none",
    "read only busybox container": "expects the words of busybox's sh; ours is bash",
}
# What the API server of the suite writes its certificates to.
CERTIFICATES = "/run/kubernetes"


def main():
    arguments = parse()
    isolate()
    if not os.path.exists(f"{KUBE}/e2e_node.test"):
        sys.exit("kubelet: run tests/kubelet/build.sh --conformance first")
    conformance_images.build(f"{servers.TOOLS}/busybox/bin/busybox", f"{KUBE}/agnhost", IMAGES)
    # Short: a shim's socket lies below it.
    work = tempfile.mkdtemp(prefix="kubelet-", dir="/run")
    node = Node(work, arguments.inro, cluster=False)
    # As an exception, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        start(node)
        run_suite(work, node, arguments)
        failed = tell(f"{work}/report.json")
    except BaseException:
        failed = True
        raise
    finally:
        node.stop()
        if arguments.keep or failed:
            keep({"inro.log": f"{work}/inro/log", "suite.log": f"{work}/suite.log", "report.json": f"{work}/report.json",
                  "kubelet.log": f"{work}/report/kubelet.log", "services.log": f"{work}/report/services.log"})
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inro", default=servers.INRO)
    parser.add_argument("--procs", type=int, default=24, help="specs at once; most of them wait most of the time")
    parser.add_argument("--timeout", default="3h", help="what has not ended by then counts as failed, what has not begun is not counted")
    parser.add_argument("--keep", action="store_true", help="leave logs behind")
    parser.add_argument("--focus", action="append", default=[], metavar="REGEX")
    parser.add_argument("--skip", action="append", default=[], metavar="REGEX")
    parser.add_argument("files", nargs="*", metavar="FILE")
    return parser.parse_args()


def start(node):
    node.make_host()
    os.makedirs(CERTIFICATES, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", CERTIFICATES], check=True)
    # The suite would start the kubelet as a unit, outside of these namespaces.
    if systemd := shutil.which("systemd-run"):
        subprocess.run(["mount", "--bind", "/dev/null", systemd], check=True)
    if subprocess.run("ip link add dummy0 type dummy".split(), stderr=subprocess.DEVNULL, check=False).returncode != 0:
        LEFT_OUT["PrivilegedPod should enable privileged commands"] = "makes a dummy link, of which this kernel has none"
    node.programs["registry"] = servers.start_registry(node.work, IMAGES)
    node.start_inro()


def run_suite(work, node, arguments):
    # The suite writes beside its program, and finds the kubelet there.
    for program in ("e2e_node.test", "kubelet"):
        os.symlink(f"{KUBE}/{program}", f"{work}/{program}")
    servers.write(f"{work}/config.yaml", json.dumps(kubelet_config(node)))
    # In a kubelet started without systemd the suite would have it move this machine's processes into cgroups of its own.
    flags = ["--kubelet-cgroups=", "--system-cgroups=", "--runtime-cgroups=", f"--node-ip={ADDRESS}"]
    chosen = [f"--label-filter={CHOSEN}", *(f"--focus-file={file}" for file in arguments.files),
              *(f"--focus={regex}" for regex in arguments.focus), *(f"--skip={regex}" for regex in [*arguments.skip, *LEFT_OUT])]
    command = [f"{KUBE}/ginkgo", f"--procs={arguments.procs}", f"--timeout={arguments.timeout}", "--no-color", "--silence-skips", "--json-report=report.json",
               f"--output-dir={work}", *chosen, f"{work}/e2e_node.test", "--",
               f"--report-dir={work}/report", f"--node-name={NAME}", "--prepull-images=false", f"--feature-gates={GATES}",
               f"--container-runtime-endpoint=unix://{node.socket}", f"--kubelet-config-file={work}/config.yaml",
               f"--kubelet-flags={' '.join(flags)}"]
    os.makedirs(f"{work}/report")
    with open(f"{work}/suite.log", "w") as log:
        suite = subprocess.Popen(command, stdout=log, stderr=log, cwd=work, start_new_session=True)
    try:
        suite.wait()
    finally:
        end_session(suite)
    if not os.path.exists(f"{work}/report.json"):
        with open(f"{work}/suite.log") as log:
            sys.exit(f"kubelet: the suite made no report:\n{log.read()[-4000:]}")


def end_session(suite):
    """Of an interrupted suite the processes that run specs stay behind; what they started ends with them."""
    deadline = time.monotonic() + 20 * FACTOR
    try:
        while True:
            os.killpg(suite.pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            suite.poll()
            time.sleep(0.5)
    except ProcessLookupError:
        pass


def kubelet_config(node):
    """What the suite itself would use (test/e2e_node/jenkins/default-kubelet-config.yaml), and what this machine needs."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "podCIDR": "10.100.0.0/24", "volumeStatsAggPeriod": "10s", "fileCheckFrequency": "10s", "serializeImagePulls": False,
        "evictionPressureTransitionPeriod": "30s",
        "cgroupDriver": "cgroupfs", "cgroupRoot": node.cgroup, "failCgroupV1": False, "failSwapOn": False,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "makeIPTablesUtilChains": False, "runtimeRequestTimeout": f"{120 * FACTOR}s",
    }


def tell(report):
    """Prints what the report says of each spec that was to run; whether one failed."""
    with open(report) as file:
        specs = [spec for suite in json.load(file) for spec in suite["SpecReports"] or []]
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for spec in specs:
        name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"] or spec["LeafNodeType"]])
        reason = " ".join(spec.get("Failure", {}).get("Message", "").split()) or left_out(spec, name)
        state = spec["State"] if spec["State"] in ("passed", "skipped", "pending") else "failed"
        if spec["LeafNodeType"] != "It" and state != "failed":
            continue
        # Neither chosen nor tried.
        if state == "pending" or state == "skipped" and not reason:
            continue
        count[state] += 1
        if state != "passed":
            print(f"kubelet: {state}: {name}: {reason[:300]}", flush=True)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    # None at all: the suite did not come up, or nothing is called so.
    return count["failed"] > 0 or count["passed"] == 0


def left_out(spec, name):
    """Why we did not choose a spec that is otherwise of the chosen kind."""
    labels = {label for part in [*(spec["ContainerHierarchyLabels"] or []), spec["LeafNodeLabels"] or []] for label in part or []}
    if spec["State"] != "skipped" or "NodeConformance" not in labels or labels & {"Serial", "Slow", "Disruptive", "Flaky"}:
        return ""
    return next((why for part, why in LEFT_OUT.items() if part in name), "")


if __name__ == "__main__":
    main()

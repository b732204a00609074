#!/usr/bin/env python3
"""Runs critest against a private daemon and a private registry, or against a daemon that runs already.

    tests/critest/run.py [--benchmark] [--parallel N] [--websocket] [--plugins] [--focus REGEXP] [--inro FILE | --endpoint URL] [--keep]

All specs but the benchmarks, unless told otherwise. Prints each failure with its message, what critest skipped and why,
and, at the end, `N passed, N failed, N skipped`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from servers import IMAGES, INRO, TOOLS, start_inro, start_registry  # noqa: E402

BRIDGE = "inrocritest0"
# The reference of one spec carries the digest of an image that cannot be made again.
PINNED = b"9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"


def main():
    arguments = parse_arguments()
    work = tempfile.mkdtemp(prefix="critest-")
    processes, tables = [], nft_tables()
    try:
        endpoint = arguments.endpoint
        if not endpoint:
            processes.append(start_registry(work))
            if arguments.plugins:
                write_network(work)
            processes.append(start_inro(arguments.inro, work, f"{work}/hosts"))
            endpoint = f"unix://{work}/cri.sock"
        report = run_critest(work, endpoint, arguments)
        passed, failed, skipped = judge(report, arguments)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
        if arguments.plugins:
            # What plugins make for good.
            subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
            for table in nft_tables() - tables:
                subprocess.run(["nft", "delete", *table.split()], check=False)
        if arguments.keep:
            print(f"critest: kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


def write_network(work):
    """A network of Debian's plugins."""
    addresses = {"type": "host-local", "dataDir": f"{work}/addresses", "ranges": [[{"subnet": "10.98.0.0/16"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": addresses}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    os.mkdir(f"{work}/net.d")
    with open(f"{work}/net.d/10-critest.conflist", "w") as file:
        json.dump({"cniVersion": "1.0.0", "name": "critest", "plugins": [bridge, portmap]}, file)


def nft_tables():
    return set(subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines())


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--benchmark", action="store_true", help="run the benchmark specs, and nothing else")
    parser.add_argument("--parallel", type=int, default=1, help="how many specs at once")
    parser.add_argument("--inro", default=INRO)
    parser.add_argument("--keep", action="store_true", help="leave logs and report behind")
    parser.add_argument("--websocket", action="store_true", help="stream over WebSocket instead of SPDY")
    parser.add_argument("--plugins", action="store_true", help="pods on a network of CNI plugins instead of the built-in one")
    parser.add_argument("--focus", help="a regexp that the specs' names match")
    parser.add_argument("--endpoint", help="a daemon that runs already, with the tests' registry behind it")
    return parser.parse_args()


def selection(arguments):
    """critest's arguments that choose specs, and the way they stream; without any that is SPDY."""
    chosen = [f"-websocket-{call}" for call in ("exec", "attach", "portforward") if arguments.websocket]
    if arguments.parallel > 1:
        chosen.append(f"--parallel={arguments.parallel}")
    if arguments.benchmark:
        return [*chosen, "--benchmark", f"--benchmarking-params-file={HERE}/benchmark.yaml"]
    return [*chosen, f"--ginkgo.focus={arguments.focus}"] if arguments.focus else chosen


def run_critest(work, endpoint, arguments):
    with open(f"{IMAGES}/images.json") as file:
        ours = json.load(file)["critest-digest"].split(":")[1].encode()
    with open(f"{TOOLS}/critest", "rb") as original, open(f"{work}/critest", "wb") as copy:
        copy.write(original.read().replace(PINNED, ours))
    os.chmod(f"{work}/critest", 0o755)
    with open(f"{work}/critest.log", "w") as log:
        subprocess.run(
            [f"{work}/critest", f"--runtime-endpoint={endpoint}", f"--image-endpoint={endpoint}", "--ginkgo.no-color",
             "--runtime-service-timeout=60s", "--image-service-timeout=60s",
             f"--ginkgo.json-report={work}/report.json", "--ginkgo.timeout=30m", *selection(arguments)],
            stdout=log, stderr=log, cwd=work, env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"})
    if not os.path.exists(f"{work}/report.json"):
        sys.exit(f"critest: no report:\n{open(f'{work}/critest.log').read()[-4000:]}")
    with open(f"{work}/report.json") as file:
        return json.load(file)[0]["SpecReports"]


def judge(report, arguments):
    """Counts, and says what failed and what was skipped, and why."""
    passed = failed = skipped = 0
    for spec in report:
        name = " ".join((spec["ContainerHierarchyTexts"] or []) + [spec["LeafNodeText"]])
        failure = (spec.get("Failure") or {}).get("Message", "").strip()
        if spec["State"] == "passed":
            if spec["LeafNodeType"] == "It":
                passed += 1
        elif spec["State"] in ("skipped", "pending"):
            # Without a message it was not selected at all.
            if failure and ("benchmark" in name) == arguments.benchmark:
                skipped += 1
                print(f"critest: skipped: {name}: {failure}")
        else:
            failed += 1
            print(f"critest: FAILED: {name} ({spec['RunTime'] / 1e9:.1f} s)")
            print("".join(f"  {line}\n" for line in failure.splitlines()[:8]), end="")
    return passed, failed, skipped


if __name__ == "__main__":
    main()

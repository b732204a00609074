#!/usr/bin/env python3
"""Runs a real kubelet against inro, and looks at what its pods do.

    tests/kubelet/run.py [--cluster] [--inro FILE] [--keep] [NAME...]

Static pods alone, or with --cluster also a one-node cluster: etcd, API server, controller manager, scheduler and
kube-proxy beside the kubelet. NAME chooses checks. Needs root, what `tests/run` prepares and `tests/kubelet/build.sh`
built. All of it runs in network and mount namespaces of its own. At the end: `N passed, N failed, N skipped`.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import cluster  # noqa: E402
import static_pods  # noqa: E402
from node import KUBE, Node, isolate, keep, servers  # noqa: E402


def main():
    arguments = parse()
    isolate()
    if not os.path.exists(f"{KUBE}/version"):
        sys.exit("kubelet: run tests/kubelet/build.sh first")
    sys.exit(run(arguments))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", action="store_true", help="with a control plane")
    parser.add_argument("--inro", default=servers.INRO)
    parser.add_argument("--keep", action="store_true", help="leave logs behind")
    parser.add_argument("--logs", default=f"{servers.TARGET}/kubelet", metavar="DIR", help="where, or after a failure")
    parser.add_argument("names", nargs="*", metavar="NAME")
    return parser.parse_args()


def run(arguments):
    # Short: a shim's socket lies below it.
    work = tempfile.mkdtemp(prefix="kubelet-", dir="/run")
    node = Node(work, arguments.inro, arguments.cluster)
    # As an exception, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    checks = static_pods.CHECKS + (cluster.CHECKS if arguments.cluster else [])
    checks = [check for check in checks if not arguments.names or check.__name__ in arguments.names]
    passed = failed = 0
    try:
        began = time.monotonic()
        node.start()
        print(f"kubelet: the node is up after {time.monotonic() - began:.1f} s", flush=True)
        for check in checks:
            began = time.monotonic()
            try:
                check(node)
                passed += 1
                print(f"kubelet: ok: {check.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"kubelet: FAILED: {check.__name__} ({time.monotonic() - began:.1f} s)\n{traceback.format_exc()}", flush=True)
    except BaseException:
        failed += 1
        traceback.print_exc()
    finally:
        try:
            node.stop()
        except Exception:
            failed += 1
            traceback.print_exc()
        if arguments.keep or failed:
            logs = [name for name in os.listdir(work) if name.endswith(".log")]
            keep({name: f"{work}/{name}" for name in logs} | {"inro.log": f"{work}/inro/log"}, arguments.logs)
        shutil.rmtree(work, ignore_errors=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Pulls images with inro and its peers in turn, each time with a new store, and prints how long it took.

    benches/peers/pull.py [--only NAME,...] [--rounds N] [--images NAME,...] [--json FILE]

Every round starts each runtime anew with an empty folder, pulls by `crictl` over the socket that a kubelet would use, and writes
what is left in memory to the disk: that counts. `inro-erofs` is inro with layers as EROFS images. `ten` is ten images asked
for at once. Two are no runtimes but what none can do without: `floor` reads, hashes, decompresses and writes the layers
(benches/pull_floor.rs), `wire` has the registry send them, to as many connections as inro unpacks layers. Nothing is deleted before
the end, and the next run waits for five minutes after it: so long an ext4 without a journal, as machines for measurements have, passes
one by one over inodes that were freed (`recently_deleted` in fs/ext4/ialloc.c), which doubles the time of a pull. Before each pull so much
memory is touched as it may take: a hypervisor that takes back what is free gives it again slowly, page by page, to whoever comes first.
Memory is the most of all processes of the runtime together (PSS), in rounds of their own, for looking at it takes time.

Needs root, `benches/pull/images.py target/pull-images`, and what `benches/peers/run.py` needs.
"""

import argparse
import concurrent.futures
import contextlib
import glob
import http.client
import json
import mmap
import os
import signal
import statistics
import subprocess
import sys
import threading
import time

import isolation
import runtimes
from runtimes import REPO, servers

sys.path.insert(0, f"{REPO}/tests/images")
from store import blob_path  # noqa: E402

IMAGES = f"{servers.TARGET}/pull-images"
TEN = [f"ten-{n}" for n in range(10)]
FLOOR, WIRE = "floor", "wire"
NO_RUNTIMES = [FLOOR, WIRE]
# Times what is in an image, in bytes: its files, blobs beside them, and some.
TOUCHED = 3
# Seconds for which such an ext4 remembers what was deleted, and the file that is as old as the last run's end.
RECENT, ENDED = 300, f"{servers.TARGET}/pull-ended"


def main():
    arguments = parse_arguments()
    names = arguments.only.split(",")
    if missing := runtimes.missing([name for name in names if name not in NO_RUNTIMES]):
        sys.exit(f"peers: {missing}")
    if not os.path.exists(f"{IMAGES}/images.json"):
        sys.exit(f"peers: {IMAGES} is missing: run benches/pull/images.py {IMAGES}")
    if not arguments.inside:
        wait_until_deletions_are_old()
        code = isolation.run_inside([sys.executable, __file__, *sys.argv[1:]])
        open(ENDED, "w").close()
        sys.exit(code)
    isolation.prepare(arguments.inside)
    registry = servers.start_registry(arguments.inside, IMAGES)
    rounds = Rounds(arguments.inside, registry.pid, json.load(open(f"{IMAGES}/images.json")))
    results = [measure(rounds, image, names, arguments) for image in arguments.images.split(",")]
    if arguments.json:
        json.dump(results, open(arguments.json, "w"), indent=1)


def wait_until_deletions_are_old():
    if os.path.exists(ENDED) and (left := os.path.getmtime(ENDED) + RECENT - time.time()) > 0:
        print(f"waits {left:.0f} s: the last run's files were deleted too lately", file=sys.stderr)
        time.sleep(left)


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join([*runtimes.NAMES, *NO_RUNTIMES]), help="of: %(default)s")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", type=int, default=1, help="rounds in which memory is looked at")
    parser.add_argument("--images", default="six,six-zstd,tiny-1,tiny-30,ten")
    parser.add_argument("--json", help="every figure, for other programs")
    # How it starts itself again, in the namespaces.
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(rounds, image, names, arguments):
    took, cpu, memory = ({name: [] for name in names} for _ in range(3))
    for number in range(arguments.rounds):
        # Whoever comes first comes last in the next round.
        for name in names if number % 2 else names[::-1]:
            seconds, busy = rounds.one(name, image)
            took[name].append(seconds)
            cpu[name].append(busy)
    for name in names:
        if name not in NO_RUNTIMES:
            memory[name] = [rounds.one(name, image, watched=True) for _ in range(arguments.memory)]
    report(image, took, cpu, memory)
    return {"image": image, "seconds": took, "cpu": cpu, "memory": memory}


def report(image, took, cpu, memory):
    base = next(iter(took))
    print(f"\n{image}\n{'':18}{'p50 s':>8}{'least':>8}{'most':>8}{'CPU s':>8}{'MiB':>8}   to {base}, round by round")
    for name, seconds in took.items():
        ratios = [one / other for one, other in zip(seconds, took[base])]
        print(f"{name:18}{statistics.median(seconds):8.3f}{min(seconds):8.3f}{max(seconds):8.3f}"
              f"{statistics.median(cpu[name]):8.2f}{max(memory[name], default=0) / 2**20:8.1f}"
              f"   {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})", flush=True)


class Rounds:
    def __init__(self, work, registry, images):
        self.work, self.registry, self.images, self.count = work, registry, images, 0

    def one(self, name, image, watched=False, beside=contextlib.nullcontext()):
        """Seconds, and those of CPU; where it is watched, bytes. `beside` goes on during the pull."""
        self.count += 1
        work = f"{self.work}/{self.count}"
        os.mkdir(work)
        names = TEN if image == "ten" else [image]
        os.sync()
        if name == FLOOR:
            return self.floor(work, names)
        if name == WIRE:
            return self.wire(names)
        for file in ("hosts", "registries.conf"):
            os.symlink(f"{self.work}/{file}", f"{work}/{file}")
        others = children(os.getpid())
        endpoint = runtimes.start(name, work)
        daemon = [pid for pid in children(os.getpid()) if pid not in others]
        before = cpu(daemon)
        self.touch_memory(names)
        watch = Watch(daemon) if watched else None
        with beside:
            began = time.monotonic()
            pull(endpoint, names)
            subprocess.run(["sync", "--file-system", work], check=True)
            seconds = time.monotonic() - began
        busy = cpu(daemon) - before
        most = watch.end() if watched else None
        for pid in [*daemon, *descendants(daemon)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap(daemon)
        return most if watched else (seconds, busy)

    def floor(self, work, names):
        layers = [blob_path(f"{IMAGES}/registry", layer) for name in names for layer in self.images[name]["layers"]]
        self.touch_memory(names)
        before = os.times()
        out = subprocess.run([floor(), work, *layers], stdout=subprocess.PIPE, check=True, text=True).stdout
        after = os.times()
        return float(out), sum(after[2:4]) - sum(before[2:4])

    def wire(self, names):
        """Its CPU seconds are the registry's."""
        address = open(f"{self.work}/registry.yml").read().split('addr: "')[1].split('"')[0]
        paths = [f"/v2/library/{name}/blobs/{layer}" for name in names for layer in self.images[name]["layers"]]
        own, count = threading.local(), os.cpu_count() + 1

        def connect():
            own.connection = http.client.HTTPConnection(address)

        def fetch(path):
            own.connection.request("GET", path)
            response = own.connection.getresponse()
            while response.read(1 << 20):
                pass

        before, began = cpu([self.registry]), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(count, initializer=connect) as pool:
            list(pool.map(fetch, paths))
        return time.monotonic() - began, cpu([self.registry]) - before

    def touch_memory(self, names):
        """In a process that ends with it: what it had is the first to be taken again."""
        size = TOUCHED * sum(self.images[name]["unpacked"] for name in names)
        child = os.fork()
        if child == 0:
            memory, piece = mmap.mmap(-1, size), b"\1" * (1 << 20)
            for at in range(0, size, len(piece)):
                memory.write(piece[:size - at])
            os._exit(0)
        os.waitpid(child, 0)


def pull(endpoint, names):
    crictl = [f"{servers.TOOLS}/crictl", "--timeout", "300s", "--image-endpoint", endpoint, "--runtime-endpoint", endpoint, "pull"]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        for done in pool.map(lambda name: subprocess.run([*crictl, f"docker.io/library/{name}:latest"], capture_output=True), names):
            if done.returncode:
                sys.exit(f"peers: {' '.join(done.args)}: {done.stderr.decode()}")


def floor():
    found = glob.glob(f"{servers.TARGET}/**/release/deps/pull_floor-*", recursive=True)
    found = [path for path in found if not path.endswith(".d")]
    if not found:
        sys.exit("peers: build it: cargo bench --bench pull_floor --no-run")
    return max(found, key=os.path.getmtime)


class Watch:
    """Looks at the memory of some processes and all that they start, fifty times a second."""

    def __init__(self, roots):
        self.roots, self.most, self.ended = roots, 0, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended.wait(0.02):
            self.most = max(self.most, sum(map(pss, [*self.roots, *descendants(self.roots)])))

    def end(self):
        self.ended.set()
        self.thread.join()
        return self.most


def pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def cpu(roots):
    """Seconds of processes that live, with those of their children that ended."""
    ticks = 0
    for pid in [*roots, *descendants(roots)]:
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            ticks += sum(map(int, fields[11:15]))
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(roots):
    found = []
    for pid in roots:
        below = children(pid)
        found += [*below, *descendants(below)]
    return found


def children(pid):
    found = []
    for tasks in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            found += map(int, open(tasks).read().split())
        except OSError:
            pass
    return found


def reap(pids):
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How much a pull is in the way of a pod beside it: what the pod's own work takes meanwhile.

    benches/peers/neighbour.py [--only NAME,...] [--rounds N] [--image NAME]

The neighbour is a process in a cgroup of its own with the share of one processor (1024), as a pod has it. Again and again it sleeps for
2 ms and notes how much too late it wakes; it computes for about a quarter of one; and it writes 4 KiB to a file on the disk that
images land on and waits until they are there (fdatasync), as a database does. Runtimes take turns; between them it is `alone`.
Every runtime begins with an empty store. Times of waking and computing are in microseconds, those of the disk in milliseconds.

Needs what `benches/peers/pull.py` needs.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import isolation
import pull
import runtimes
from runtimes import servers

ALONE = "alone"
# Seconds.
ALONE_FOR = 3
PARTS = {"wakes too late, us": 1e6, "computes, us": 1e6, "4 KiB to the disk, ms": 1e3}


def main():
    arguments = parse_arguments()
    if arguments.probe:
        return probe(arguments.probe)
    names = arguments.only.split(",")
    if missing := runtimes.missing(names):
        sys.exit(f"peers: {missing}")
    if not arguments.inside:
        sys.exit(isolation.run_inside([sys.executable, __file__, *sys.argv[1:]]))
    isolation.prepare(arguments.inside)
    registry = servers.start_registry(arguments.inside, pull.IMAGES)
    rounds = pull.Rounds(arguments.inside, registry.pid, json.load(open(f"{pull.IMAGES}/images.json")))
    samples = {name: {part: [] for part in PARTS} for name in [ALONE, *names]}
    for number in range(arguments.rounds):
        for name in names if number % 2 else names[::-1]:
            with neighbour(arguments.inside, samples[ALONE]):
                time.sleep(ALONE_FOR)
            rounds.one(name, arguments.image, beside=neighbour(arguments.inside, samples[name]))
    report(samples)


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="inro,containerd-runc,crio-crun", help="of: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", default="six")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextlib.contextmanager
def neighbour(work, samples):
    """Goes on while something is done."""
    process = subprocess.Popen([sys.executable, __file__, "--probe", work], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    yield
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate()
    for part, values in json.loads(told).items():
        samples[part] += values


def probe(work):
    """Until it is told to end; then what it noted, in seconds."""
    join_cgroup()
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    noted = {part: [] for part in PARTS}
    late, computed, written = noted.values()
    file = os.open(f"{work}/neighbour", os.O_CREAT | os.O_WRONLY)
    os.pwrite(file, bytes(4096), 0)
    print(flush=True)
    while not ended:
        at = time.perf_counter()
        time.sleep(0.002)
        woke = time.perf_counter()
        sum(range(20_000))
        done = time.perf_counter()
        os.pwrite(file, os.urandom(4096), 0)
        os.fdatasync(file)
        late.append(woke - at - 0.002)
        computed.append(done - woke)
        written.append(time.perf_counter() - done)
    print(json.dumps(noted))


def join_cgroup():
    for hierarchy, file, weight in ("/sys/fs/cgroup/cpu", "cpu.shares", "1024"), ("/sys/fs/cgroup", "cpu.weight", "100"):
        if not os.path.exists(f"{hierarchy}/cgroup.procs"):
            continue
        group = f"{hierarchy}/inro-neighbour"
        servers.write(f"{group}/{file}", weight)
        servers.write(f"{group}/cgroup.procs", "0")
        return
    sys.exit("peers: no hierarchy of cgroups has cpu")


def report(samples):
    print(f"{'':18}{'':24}{'samples':>9}{'p50':>10}{'p99':>10}{'most':>10}")
    for part, scale in PARTS.items():
        for name, parts in samples.items():
            values = sorted(value * scale for value in parts[part])
            p99 = values[len(values) * 99 // 100]
            print(f"{name:18}{part:24}{len(values):9}{statistics.median(values):10.2f}{p99:10.2f}{values[-1]:10.2f}")


if __name__ == "__main__":
    main()

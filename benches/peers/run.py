#!/usr/bin/env python3
"""Starts inro and its peers side by side, each with folders of its own and the tests' offline registry, and runs a command.

    benches/peers/run.py [--only NAME[,NAME]] COMMAND...

`{NAME}` in the command is that runtime's endpoint, `{endpoints}` all of them as `--endpoint NAME=SOCKET ...`. Needs root, what
`tests/run` prepares, and for the peers what `benches/peers/build.sh` builds.

The command and the runtimes are in namespaces of their own (see isolation.py): whatever they leave ends with the command.
"""

import argparse
import os
import shlex
import subprocess
import sys

import isolation
import runtimes
from runtimes import REPO, servers


def main():
    arguments = parse_arguments()
    names = arguments.only.split(",")
    if missing := runtimes.missing(names):
        sys.exit(f"peers: {missing}")
    if arguments.inside:
        sys.exit(run(names, arguments.command, arguments.inside))
    sys.exit(isolation.run_inside([sys.executable, __file__, *sys.argv[1:]]))


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(runtimes.NAMES), help="of: %(default)s")
    # How it starts itself again, in the namespaces.
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def run(names, command, work):
    isolation.prepare(work)
    servers.start_registry(work)
    endpoints = {name: runtimes.start(name, work) for name in names}
    every = " ".join(f"--endpoint {name}={endpoint}" for name, endpoint in endpoints.items())
    command = [word.format(endpoints=every, **endpoints) for word in command]
    words = shlex.split(command[0]) if len(command) == 1 else command
    return isolation.wait_for(subprocess.Popen(words, cwd=REPO))


if __name__ == "__main__":
    main()

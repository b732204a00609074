"""Makes the images that the node conformance suite asks for, without a network.

Their names are those of its manifest (test/utils/image/manifest.go of the release that `build.sh` pins). agnhost is built
from the release's own source; the rest is the tests' shell with what the suite expects of the image beside it. Names that
are meant to fail (no such registry, no such credentials) are left out, and so are the ones pinned by digest.
"""

import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{os.path.dirname(HERE)}/images")
from build import image  # noqa: E402
from rootfs import GROUP, PASSWD, Layer, compile_programs, libraries, parents, shell  # noqa: E402
from store import Store  # noqa: E402

E2E = "e2e-test-images"
# Asked for of agnhost's image; and the suite passes `data-1=…` through `sh`, which Debian's busybox drops, unlike its own.
BASH, CURL = "/bin/bash", "/usr/bin/curl"
# The suite asks busybox for the time of day in milliseconds, `nmeter -d0 %3t`: Debian's has no such applet.
NMETER = """#!/bin/bash
now=$EPOCHREALTIME
TZ=UTC printf '%(%T)T.%.3s\\n' "${now%.*}" "${now#*.}"
"""


def build(busybox, agnhost, out):
    """`out` becomes a registry's storage tree; BUSYBOX is a dynamically linked one, AGNHOST where `build.sh` put it."""
    shutil.rmtree(out, ignore_errors=True)
    programs = compile_programs(f"{out}/bin")
    store = Store(f"{out}/registry")
    base = [shell(busybox, programs).tar(), tools(busybox)]

    def put(name, tag, *layers, **config):
        # No two of them equal: an id would have several names, and a container's status any of them.
        store.manifest(name, image(*layers, Labels={"name": f"{name}:{tag}"}, **config), tag)

    put(f"{E2E}/busybox", "1.37.0-2", *base, Cmd=["sh"])
    put(f"{E2E}/glibc-dns-testing", "2.1.1", *base, Cmd=["sh"])
    put(f"{E2E}/ipc-utils", "1.4", *base, Cmd=["sh"])
    put(f"{E2E}/nonroot", "1.5", *base, Cmd=["sh"], User="1234")
    nginx = program("usr/sbin/nginx", programs["web"])
    for tag in ("1.27.0-2", "1.28.0-2"):
        put(f"{E2E}/nginx", tag, *base, nginx, Entrypoint=["/usr/sbin/nginx", "nginx", "80"])
    put(f"{E2E}/nonewprivs", "1.4", *base, program("usr/local/bin/nnp", programs["nnp"], mode=0o4755), Cmd=["nnp"])
    put("pause", "3.10.2", program("pause", programs["pause"]), Entrypoint=["/pause"], User="65535:65535")
    host = test_host(agnhost)
    for tag in ("2.66.1", "2.55"):
        put(f"{E2E}/agnhost", tag, *base, host, Entrypoint=["/agnhost"], Cmd=["pause"])


def program(path, content, mode=0o755):
    return Layer().file(path, content, mode=mode).tar()


def test_host(agnhost):
    """The program under both its names, its certificate, and the user that tests of supplementary groups look for."""
    layer = Layer()
    for name, mode in (("agnhost", 0o755), ("localhost.crt", 0o644), ("localhost.key", 0o644)):
        with open(f"{os.path.dirname(agnhost)}/{name}", "rb") as file:
            layer.file(name, file.read(), mode=mode)
    layer.symlink("agnhost-2", "agnhost").folder("uploads")
    layer.folder("home/user-defined-in-image", uid=1000, gid=1000)
    layer.file("etc/passwd", PASSWD.replace("default-user", "user-defined-in-image"))
    return layer.file("etc/group", GROUP.replace("default-user", "user-defined-in-image")).tar()


def tools(busybox):
    """Programs of this machine, with those of their libraries that the tests' shell does not bring."""
    layer, there = Layer(), set(libraries(busybox))
    needed = sorted({library for tool in (BASH, CURL) for library in libraries(tool)} - there)
    for folder in sorted({part for path in needed for part in parents(path)} - {"lib", "usr"}):
        layer.folder(folder)
    for path in [*needed, BASH, CURL]:
        with open(path, "rb") as file:
            layer.file(path.lstrip("/"), file.read(), mode=0o755)
    return layer.file("bin/nmeter", NMETER, mode=0o755).hardlink("bin/sh", "bin/bash").tar()


if __name__ == "__main__":
    build(*sys.argv[1:])

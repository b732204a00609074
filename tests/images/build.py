#!/usr/bin/env python3
"""Makes every image that critest and our own tests ask for, without a network.

    tests/images/build.py BUSYBOX OUT

BUSYBOX is a dynamically linked busybox. OUT/registry becomes a registry's storage
tree and OUT/images.json says what is in it; equal inputs give equal bytes.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile

from rootfs import Layer, compile_programs, shell, static
from store import Image, Store, digest

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
OTHER = {"amd64": "arm64", "arm64": "amd64"}[ARCHITECTURE]


def main():
    busybox, out = sys.argv[1:]
    shutil.rmtree(out, ignore_errors=True)
    programs = compile_programs(f"{out}/bin")
    store = Store(f"{out}/registry")
    base = shell(busybox, programs).tar()
    made = critest(store, base, programs) | ours(store, base, programs)
    with open(f"{out}/images.json", "w") as file:
        json.dump(made, file, indent=1)
    bundle(programs, f"{out}/bundle")


def image(*layers, **config):
    return Image(*layers, architecture=ARCHITECTURE, **config)


# What critest pulls. The names are those of its sources; the contents ours.


def critest(store, base, programs):
    staging = "k8s-staging-cri-tools"
    e2e = "e2e-test-images"
    store.manifest(f"{e2e}/busybox", image(base, format="docker", Cmd=["sh"]), "1.29-2")
    nginx = Layer().file("usr/sbin/nginx", programs["web"], mode=0o755).tar()
    httpd = Layer().file("usr/sbin/httpd", programs["web"], mode=0o755).tar()
    store.manifest(f"{e2e}/nginx", image(base, nginx, Entrypoint=["/usr/sbin/nginx", "nginx", "80"]), "1.14-2")
    store.manifest(f"{e2e}/httpd", image(base, httpd, Entrypoint=["/usr/sbin/httpd", "httpd", "80"]), "2.4.39-4")
    store.manifest(f"{staging}/hostnet-nginx-{ARCHITECTURE}",
                   image(base, nginx, Entrypoint=["/usr/sbin/nginx", "nginx", "12003"]), "latest")
    escalate = Layer().file("nnp", programs["nnp"], mode=0o4755).tar()
    store.manifest(f"{e2e}/nonewprivs", image(base, escalate, Entrypoint=["/nnp"]), "1.3")

    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:www-data"}
    for name, user in users.items():
        store.manifest(f"{staging}/test-image-user-{name}", image(base, User=user), "latest")
    store.manifest(f"{staging}/test-image-predefined-group", image(base, User="1000"), "latest")

    def marked(name, **more):
        return image(base, Layer().file(name).tar(), Cmd=["sh"], **more)

    # Both kinds of manifests, and both with and without a list over them.
    platform_ = {"architecture": ARCHITECTURE, "os": "linux"}
    other = {"architecture": OTHER, "os": "linux"}
    foreign = Image(Layer().file("foreign").tar(), architecture=OTHER)
    for repository, tag, docker in [("latest", "latest", False), ("tag", "test", True), ("tag", "all", False)]:
        repository = f"{staging}/test-image-{repository}"
        format_ = "docker" if docker else "oci"
        entries = [(store.manifest(repository, foreign), other),
                   (store.manifest(repository, marked(tag, format=format_)), platform_)]
        store.index(repository, entries, tag, docker)
    for number in "123":
        store.manifest(f"{staging}/test-image-{number}", marked(f"test-image-{number}"), "latest")
    same = store.manifest(f"{staging}/test-image-tags", marked("same-image"), "1")
    store.retag(f"{staging}/test-image-tags", "2", same)
    store.retag(f"{staging}/test-image-tags", "3", same)
    pause = Layer().file("pause", programs["pause"], mode=0o755).tar()
    store.manifest("pause", image(pause, Entrypoint=["/pause"]), "3.9")
    # A plain manifest: of a list, two digests would name the image.
    pinned = store.manifest(f"{staging}/test-image-digest", marked("digest"), "latest")
    return {"critest-digest": pinned["digest"]}


# What our own tests pull, all under docker.io/library.


def ours(store, base, programs):
    def put(name, image_, tag="latest"):
        return store.manifest(f"library/{name}", image_, tag)["digest"]

    made = {
        "shell": put("shell", image(base, Cmd=["sh"])),
        "tiny": put("tiny", image(static(programs).tar(), Cmd=["/bin/probe"], User="0")),
    }
    store.manifest("library/shell", image(base, Cmd=["sh"]), "v1")
    put("docker", image(base, format="docker", Cmd=["sh"]))
    put("zstd", image(base, compression="zstd", Cmd=["sh"]))
    put("plain", image(base, compression="none", Cmd=["sh"]))
    put("configured", image(
        base, Env=["PATH=/bin", "FROM_IMAGE=yes", "OVERRIDDEN=image"], User="default-user",
        WorkingDir="/made/by/runtime", Entrypoint=["/bin/echo"], Cmd=["from", "image"],
        StopSignal="SIGUSR1", Labels={"kind": "configured"}))
    put("volumes", image(
        base, Layer().folder("data").file("data/seed", "from the image").symlink("hop", "../../../../tmp").tar(), Cmd=["sh"],
        Volumes={"/data": {}, "/made/anew": {}, "/proc/1": {}, "/../../up/and/out": {}, "/hop/deep": {}}))
    put("stubborn", image(base, Cmd=["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]))
    put("layered", layered(base))
    put("many-layers", image(base, *[Layer().file(f"layer-{n}", str(n)).tar() for n in range(60)], Cmd=["sh"]))
    put("setuid", image(base, Layer().file("nnp", programs["nnp"], mode=0o4755).tar(), Entrypoint=["/nnp"]))
    made |= hostile(put, base)
    put("large", image(base, Layer().folder("data").file("data/noise", noise(24 << 20)).tar(), Cmd=["sh"]))
    for number in range(4):
        put(f"shared-{number}", image(base, Layer().file("which", str(number)).tar(), Cmd=["sh"]))
    platforms = [(store.manifest("library/platforms", image(base, Cmd=["sh"], Labels={"platform": "ours"})),
                  {"architecture": ARCHITECTURE, "os": "linux"}),
                 (store.manifest("library/platforms", Image(Layer().file("x").tar(), architecture=OTHER)),
                  {"architecture": OTHER, "os": "linux"})]
    store.index("library/platforms", platforms[::-1], "latest")
    store.index("library/platforms", platforms[1:], "foreign")
    # The same image behind a second name, for the tests of credentials and mirrors.
    made["private"] = put("private", image(base, Cmd=["sh"], Labels={"kind": "private"}))
    return made


def layered(base):
    """Whiteouts, an opaque folder, replaced kinds, links and odd modes over the base."""
    lower = Layer()
    lower.folder("gone").file("gone/a", "a").file("removed", "removed").folder("opaque").file("opaque/old", "old")
    lower.file("becomes-folder").folder("becomes-file").file("becomes-file/inside")
    upper = Layer()
    upper.file(".wh.removed").file(".wh.gone").file("opaque/.wh..wh..opq").file("opaque/new", "new")
    upper.folder("becomes-folder").file("becomes-folder/inside", "yes").file("becomes-file", "file")
    upper.file("linked", "one inode").hardlink("linked-too", "linked", 0o644).symlink("link", "linked")
    upper.file("suid", "x", mode=0o4755).file("owned", "x", mode=0o640, uid=1000, gid=50000)
    upper.file("attributed", "x", pax_headers={
        "SCHILY.xattr.user.kind": "test",
        # Of the machine that built it, which is nothing to ours.
        "SCHILY.xattr.security.selinux": "system_u:object_r:usr_t:s0",
    })
    upper.file("long/" + "n" * 180 + "/" + "m" * 180, "long name")
    return image(base, lower.tar(), upper.tar(), Cmd=["sh"])


def hostile(put, base):
    """Images that must be refused, or must not reach the host."""
    climb = Layer().file("../../../../../../tmp/inro-escaped", "out").tar()
    put("climb", image(base, climb, Cmd=["sh"]))
    through = Layer().symlink("exit", "/tmp").file("exit/inro-escaped", "out").tar()
    put("through-link", image(base, through, Cmd=["sh"]))
    for name in ("dev", "proc", "sys"):
        layer = Layer().file(f".wh.{name}").tar(), Layer().symlink(name, "/tmp/inro-target").tar()
        put(f"linked-{name}", image(base, *layer, Cmd=["sh"]))
    put("linked-console", image(base, Layer().symlink("dev/console", "/run/inro-test-console").tar(), Cmd=["sh"]))
    put("fifo-passwd", image(base, Layer().special("etc/passwd", tarfile.FIFOTYPE).tar(), Cmd=["sh"]))
    put("device", image(base, Layer().special("disk", tarfile.BLKTYPE, devmajor=254, devminor=0).tar(), Cmd=["sh"]))

    class Lying(Image):
        """The config names another diff id than the layer has."""

        def config(self):
            config = super().config()
            config["rootfs"]["diff_ids"][-1] = digest(b"something else")
            return config

    put("wrong-diff-id", Lying(base, architecture=ARCHITECTURE))

    def absent(body):
        body["layers"][-1]["digest"] = digest(b"absent")

    def short(body):
        body["layers"][-1]["size"] -= 1

    put("absent-layer", image(base, Layer().file("x").tar(), tamper=absent))
    put("wrong-size", image(base, Layer().file("y").tar(), tamper=short))
    return {}


def noise(size):
    """Bytes that do not compress, the same every time."""
    block, out = b"inro", bytearray()
    while len(out) < size:
        block = hashlib.sha512(block).digest()
        out += block
    return bytes(out[:size])


def bundle(programs, path):
    """The rootfs of `tiny` as a folder, for the runtimes measured beside us."""
    os.makedirs(f"{path}/rootfs")
    subprocess.run(["tar", "-x", "-C", f"{path}/rootfs"], input=static(programs).tar(), check=True)


if __name__ == "__main__":
    main()

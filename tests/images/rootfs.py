"""Trees: what is inside the images, and how a tree becomes a layer."""

import functools
import gzip
import io
import os
import re
import struct
import subprocess
import tarfile

HERE = os.path.dirname(os.path.abspath(__file__))

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nogroup:x:65534:
"""


class Layer:
    """One layer's tar, written entry by entry; times, owners and order are fixed."""

    def __init__(self):
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w", format=tarfile.PAX_FORMAT)

    def _entry(self, path, kind, mode, **fields):
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.mtime = kind, mode, 1577836800
        for name, value in fields.items():
            setattr(info, name, value)
        return info

    def folder(self, path, mode=0o755, **fields):
        self._tar.addfile(self._entry(path, tarfile.DIRTYPE, mode, **fields))
        return self

    def file(self, path, content=b"", mode=0o644, **fields):
        content = content.encode() if isinstance(content, str) else content
        info = self._entry(path, tarfile.REGTYPE, mode, size=len(content), **fields)
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def symlink(self, path, target):
        self._tar.addfile(self._entry(path, tarfile.SYMTYPE, 0o777, linkname=target))
        return self

    def hardlink(self, path, target, mode=0o755):
        self._tar.addfile(self._entry(path, tarfile.LNKTYPE, mode, linkname=target))
        return self

    def special(self, path, kind, mode=0o644, **fields):
        self._tar.addfile(self._entry(path, kind, mode, **fields))
        return self

    def tar(self):
        self._tar.close()
        return self._bytes.getvalue()


def compile_programs(into):
    """Compiles src/*.c statically; a dict of name to bytes."""
    os.makedirs(into, exist_ok=True)
    programs = {}
    for source in sorted(os.listdir(f"{HERE}/src")):
        name = source.removesuffix(".c")
        subprocess.run(
            ["musl-gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none",
             "-o", f"{into}/{name}", f"{HERE}/src/{source}"], check=True)
        programs[name] = open(f"{into}/{name}", "rb").read()
    return programs


def shell(busybox, programs):
    """A shell's tree: dynamic busybox, its libraries, and one hard link per applet.

    Hard links, not symlinks: a path masked in a test must not take the others along.
    """
    layer = base(Layer())
    layer.file("bin/busybox", open(busybox, "rb").read(), mode=0o755)
    for applet in applets(busybox):
        if applet not in programs:
            layer.hardlink(f"bin/{applet}", "bin/busybox")
    for folder in sorted({part for library in libraries(busybox) for part in parents(library)}):
        if folder != "lib":
            layer.folder(folder)
    for library in libraries(busybox):
        layer.file(library.lstrip("/"), open(library, "rb").read(), mode=0o755)
    for name in ("ipcs", "pgrep", "probe"):
        layer.file(f"bin/{name}", programs[name], mode=0o755)
    return layer


def static(programs):
    """The shell's tree without a shell: the static programs only, a few kilobytes."""
    layer = base(Layer())
    for name in ("probe", "pause"):
        layer.file(f"bin/{name}", programs[name], mode=0o755)
    return layer


def base(layer):
    folders = ["bin", "dev", "etc", "home", "lib", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/run", "var/www"]
    for folder in folders:
        layer.folder(folder)
    layer.folder("root", 0o700).folder("tmp", 0o1777)
    layer.folder("home/default-user", uid=1000, gid=1000)
    return layer.file("etc/passwd", PASSWD).file("etc/group", GROUP)


def applets(busybox):
    names = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    # These would shadow the host's kernel-facing tools for no test's benefit.
    return [name for name in names if "/" not in name and name != "busybox"]


def libraries(binary):
    """What the dynamic loader maps for `binary`, the loader included."""
    listing = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", listing)))


def parents(path):
    parts = path.strip("/").split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


@functools.lru_cache(maxsize=4)
def compress_gzip(data):
    return gzip.compress(data, 6, mtime=0)


def compress_zstd(data):
    """A zstd frame of raw blocks (RFC 8878, 3.1.1): valid, and needs no library."""
    frame = [struct.pack("<IBQ", 0xFD2FB528, 0xE0, len(data))]
    blocks = [data[i : i + 65536] for i in range(0, len(data), 65536)] or [b""]
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        frame.append(struct.pack("<I", int(last) | len(block) << 3)[:3] + block)
    return b"".join(frame)

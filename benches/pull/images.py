#!/usr/bin/env python3
"""Makes the images whose pull is measured, of the machine's own files: real programs, sources and texts.

    benches/pull/images.py OUT

OUT/registry becomes a registry's storage tree, and OUT/images.json says what each image has. Images of the same machine are the
same; those of two machines are alike, so figures compare within one machine only.

    six, six-zstd   8,000 files in six layers, about 500 MB unpacked; compressed by gzip, and by zstd
    tiny-1, tiny-30 one layer of one small file, and thirty of them: what a layer costs that has nothing in it
    ten-0 ... ten-9 800 files in one layer each, no two of them alike
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{REPO}/tests/images")
from rootfs import Layer  # noqa: E402
import store as store_module  # noqa: E402
from store import Image, Store, blob_path  # noqa: E402

FROM = "/usr"
FILES, LAYERS, TEN = 8000, 6, 10
# Files below 3 KiB are left out: with them, 8,000 files have half as many bytes as those of an image of this size.
LEAST, MOST = 3 << 10, 20 << 20


def main():
    out = sys.argv[1]
    shutil.rmtree(out, ignore_errors=True)
    files = choose(FILES * 2)
    first, second = files[:FILES], files[FILES:]
    each = FILES // TEN
    # The tests' own zstd has raw blocks.
    store_module.compress_zstd = zstd
    work = [("six", split(first, LAYERS), "gzip"), ("six-zstd", split(first, LAYERS), "zstd")]
    work += [(f"ten-{n}", [second[n * each:(n + 1) * each]], "gzip") for n in range(TEN)]
    with multiprocessing.Pool(2) as pool:
        made = dict(pool.starmap(put, [(out, *image) for image in work]))
    for count in (1, 30):
        layers = [Layer().file(f"layer-{count}-{n}", str(n)).tar() for n in range(count)]
        name, about = store(out, f"tiny-{count}", layers, "gzip")
        made[name] = about
    with open(f"{out}/images.json", "w") as file:
        json.dump(made, file, indent=1)


def choose(count):
    """As many of the machine's files, evenly over all of them."""
    found = []
    for folder, _, names in os.walk(FROM):
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isfile(path) and not os.path.islink(path) and LEAST <= os.path.getsize(path) <= MOST:
                found.append((hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest(), path))
    if len(found) < count:
        sys.exit(f"{FROM} has {len(found)} files of a fitting size, and {count} are needed")
    return [path for _, path in sorted(found)[:count]]


def split(files, parts):
    """Neighbours stay together, as they are in images."""
    files, size = sorted(files), -(-len(files) // parts)
    return [files[start:start + size] for start in range(0, len(files), size)]


def put(out, name, groups, compression):
    layers = []
    for group in groups:
        layer, folders = Layer(), set()
        for path in sorted(group):
            for folder in parents(path):
                if folder not in folders:
                    layer.folder(folder)
                    folders.add(folder)
            with open(path, "rb") as file:
                layer.file(path[1:], file.read(), mode=os.stat(path).st_mode & 0o7777)
        layers.append(layer.tar())
    return store(out, name, layers, compression)


def zstd(tar):
    return subprocess.run(["zstd", "-3", "-c"], input=tar, stdout=subprocess.PIPE, check=True).stdout


def parents(path):
    parts = os.path.dirname(path).strip("/").split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def store(out, name, layers, compression):
    body = Store(f"{out}/registry").manifest(f"library/{name}", Image(*layers, compression=compression), "latest")
    manifest = json.load(open(blob_path(f"{out}/registry", body["digest"])))
    return name, {
        "layers": [layer["digest"] for layer in manifest["layers"]],
        "compressed": sum(layer["size"] for layer in manifest["layers"]),
        "unpacked": sum(map(len, layers)),
    }


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The two snapshotters beside each other: unpacking, starting and removing an image, and the memory of 50 pods.

    benches/erofs/measure.py INRO CRICTL BUSYBOX [ROUNDS]

Two daemons of the same binary take turns. The image is imported from an archive, which is what a pull does but for the
network: 6 layers, 8,000 files, 150 MB, half of each file incompressible. Every round unpacks into folders that were never
deleted: ext4 is slow for minutes after a removal. Memory is what mincore(2) says of the files that containers read, and of
the layers' own files: nothing else on the machine changes it.
"""

import ctypes, glob, gzip, hashlib, io, json, os, random, statistics, subprocess, sys, tarfile, tempfile, time

INRO, CRICTL, BUSYBOX = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 5
LAYERS, FILES, BYTES, PODS = 6, int(os.environ.get("FILES", 8000)), int(os.environ.get("MBYTES", 150)) << 20, 50
SUBJECTS = ("overlay", "erofs")
NAME = "registry.test/bench:1"
libc = ctypes.CDLL(None, use_errno=True)


def main():
    with tempfile.TemporaryDirectory(prefix="inro-erofs-", dir=os.environ.get("BENCH_DIR", "/var/tmp")) as place:
        archive = make_archive(os.path.join(place, "image.tar"))
        rows = {}
        for turn in range(ROUNDS):
            for subject in SUBJECTS if turn % 2 == 0 else SUBJECTS[::-1]:
                node = Node(os.path.join(place, f"{subject}-{turn}"), subject)
                try:
                    for key, value in node.round(archive, memory=turn == ROUNDS - 1).items():
                        rows.setdefault(key, {}).setdefault(subject, []).append(value)
                finally:
                    node.end()
        print(f"| | {' | '.join(SUBJECTS)} | erofs / overlay |\n|---|---|---|---|")
        for key, values in rows.items():
            medians = [statistics.median(values[subject]) for subject in SUBJECTS]
            pairs = [b / a for a, b in zip(*(values[subject] for subject in SUBJECTS)) if a]
            ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f}..{max(pairs):.2f})" if pairs else ""
            print(f"| {key} | {medians[0]:.2f} | {medians[1]:.2f} | {ratio} |")


class Node:
    def __init__(self, place, snapshotter):
        self.place = place
        os.makedirs(place + "/state")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place + "/state"], check=True)
        with open(place + "/config.toml", "w") as config:
            config.write(f'root = "{place}/root"\nstate = "{place}/state"\nlisten = "unix://{place}/sock"\n'
                         f'[net]\nmode = "none"\n[image]\nsnapshotter = "{snapshotter}"\nregistries_conf = ""\n')
        self.daemon = subprocess.Popen([INRO, "serve", "--config", place + "/config.toml"],
                                       stdout=open(place + "/log", "w"), stderr=subprocess.STDOUT)
        for _ in range(1000):
            if os.path.exists(place + "/sock"):
                return
            time.sleep(0.01)
        raise SystemExit(open(place + "/log").read())

    def round(self, archive, memory):
        self.pods = []
        cpu, begin = self.cpu(), time.monotonic()
        self.image("import", archive)
        took = {"import, s": time.monotonic() - begin}
        begin = time.monotonic()
        os.sync()
        took["sync after it, s"] = time.monotonic() - begin
        took["user CPU of the import, s"], took["system CPU of the import, s"] = (b - a for a, b in zip(cpu, self.cpu()))
        took["on the disk, MB"] = int(subprocess.run(["du", "-sk", self.place + "/root/layers"],
                                                     capture_output=True, check=True).stdout.split()[0]) / 1024
        starts = []
        for _ in range(10):
            pod = self.pod()
            begin = time.monotonic()
            self.container(pod, ["/bin/busybox", "sleep", "100000"])
            starts.append((time.monotonic() - begin) * 1000)
        took["create and start through crictl, the first, ms"] = starts[0]
        took["create and start through crictl, later ones, ms"] = statistics.median(starts[1:])
        if memory:
            took |= self.memory()
        self.remove_pods()
        begin = time.monotonic()
        self.image("rm", NAME)
        took["removal, s"] = time.monotonic() - begin
        return took

    def memory(self):
        """Of 50 pods that each read all files, after what was in memory of the layers has left it."""
        self.remove_pods()
        os.sync()
        stored = [path for path in glob.glob(self.place + "/root/layers/**", recursive=True)
                  if os.path.isfile(path) and not os.path.islink(path)]
        for path in stored:
            forget(path)
        cold = sum(map(in_memory, stored))
        read = "busybox cat /data/*/* >/dev/null; echo read; exec busybox sleep 100000"
        containers = []
        for _ in range(PODS):
            containers.append(self.container(self.pod(), ["/bin/busybox", "sh", "-c", read]))
            if len(containers) == 1:
                self.wait_read(containers[0])
        for container in containers:
            self.wait_read(container)
        pid = json.loads(self.crictl("inspect", containers[-1]))["info"]["pid"]
        seen = glob.glob(f"/proc/{pid}/root/data/*/*")
        shown, kept = sum(map(in_memory, seen)), sum(map(in_memory, stored))
        # A folder's files are what containers read: they are there once.
        total = kept if "overlay" in os.path.basename(self.place) else shown + kept
        return {"50 pods that read all files: pages of the files, MB": shown / 2**20,
                "pages of what is on the disk, MB": kept / 2**20,
                "both, MB": total / 2**20, "of what is on the disk, before, MB": cold / 2**20}

    def wait_read(self, container):
        while "read" not in self.crictl("logs", container):
            time.sleep(0.2)

    def pod(self):
        number = len(self.pods)
        config = {"metadata": {"name": f"p{number}", "uid": f"u{number}-{time.time_ns()}", "namespace": "bench"},
                  "log_directory": self.place + f"/logs{number}",
                  "linux": {"cgroup_parent": "/inro-erofs-bench",
                            "security_context": {"namespace_options": {"network": 2, "pid": 1}}}}
        os.makedirs(config["log_directory"], exist_ok=True)
        path = self.place + f"/pod{number}.json"
        json.dump(config, open(path, "w"))
        self.pods.append((self.crictl("runp", path).strip(), path))
        return self.pods[-1]

    def container(self, pod, command):
        path = pod[1].replace("/pod", "/container")
        json.dump({"metadata": {"name": "c"}, "image": {"image": NAME}, "command": command, "log_path": "c.log",
                   "linux": {"security_context": {"namespace_options": {"network": 2, "pid": 1}}}},
                  open(path, "w"))
        container = self.crictl("create", pod[0], path, pod[1]).strip()
        self.crictl("start", container)
        return container

    def remove_pods(self):
        for pod, _ in self.pods:
            self.crictl("stopp", pod)
            self.crictl("rmp", pod)
        self.pods = []

    def crictl(self, *arguments):
        endpoint = f"unix://{self.place}/sock"
        done = subprocess.run([CRICTL, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "120s",
                               *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"crictl {arguments}: {done.stderr}")
        return done.stdout

    def image(self, *arguments):
        subprocess.run([INRO, "image", "--endpoint", f"unix://{self.place}/sock", *arguments], check=True,
                       stdout=subprocess.DEVNULL)

    def cpu(self):
        """Of the daemon and the workers that it has waited for: user and system."""
        fields = open(f"/proc/{self.daemon.pid}/stat").read().rsplit(")", 1)[1].split()
        tick = os.sysconf("SC_CLK_TCK")
        return [(int(fields[11 + kind]) + int(fields[13 + kind])) / tick for kind in (0, 1)]

    def end(self):
        self.remove_pods()
        self.daemon.terminate()
        self.daemon.wait()
        subprocess.run(["umount", self.place + "/state"], check=True)


def make_archive(path):
    """An OCI layout in a tar file."""
    noise = random.Random(8)
    blobs, layers, diff_ids = {}, [], []
    for layer in range(LAYERS):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            def add(name, data=b"", kind=tarfile.REGTYPE, link="", mode=0o644):
                info = tarfile.TarInfo(name)
                info.size, info.type, info.linkname, info.mode, info.mtime = len(data), kind, link, mode, 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
            if layer == 0:
                add("bin", kind=tarfile.DIRTYPE, mode=0o755)
                add("bin/busybox", open(BUSYBOX, "rb").read(), mode=0o755)
                for library in libraries(BUSYBOX):
                    add(library.lstrip("/"), open(library, "rb").read(), mode=0o755)
            for number in range(FILES // LAYERS):
                if number % 50 == 0:
                    add(f"data/{layer}-{number // 50}", kind=tarfile.DIRTYPE, mode=0o755)
                size = int(noise.expovariate(FILES / BYTES))
                data = noise.randbytes(size // 2) + b"text " * (size // 10)
                add(f"data/{layer}-{number // 50}/file-{number}", data)
        tar = out.getvalue()
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        layers.append(blob(blobs, gzip.compress(tar, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {"architecture": machine, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = blob(blobs, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers}
    manifest = blob(blobs, json.dumps(manifest).encode(), manifest["mediaType"])
    manifest["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    with tarfile.open(path, "w") as tar:
        for name, data in {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
                           "index.json": json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode(), **blobs}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def blob(blobs, data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    blobs["blobs/sha256/" + digest] = data
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


def libraries(program):
    told = subprocess.run(["ldd", program], capture_output=True, text=True).stdout.split()
    return [word for word in told if word.startswith("/")]


def in_memory(path):
    """Bytes of a file that are in memory. Source: mincore(2)."""
    size = os.path.getsize(path)
    if not size:
        return 0
    with open(path, "rb") as file:
        pages = (size + 4095) // 4096
        vector = (ctypes.c_ubyte * pages)()
        libc.mmap.restype = ctypes.c_void_p
        address = libc.mmap(None, ctypes.c_size_t(size), 1, 1, file.fileno(), ctypes.c_long(0))
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), vector):
            raise OSError(ctypes.get_errno(), path)
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
        return 4096 * sum(page & 1 for page in vector)


def forget(path):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


main()

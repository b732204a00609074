"""Writes images straight into the storage tree of a stock registry: no push, no network."""

import hashlib
import json
import os

from rootfs import compress_gzip, compress_zstd

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


V2 = "docker/registry/v2"


def blob_path(root, name):
    """Where a registry whose `rootdirectory` is `root` keeps a blob, by its digest."""
    return f"{root}/{V2}/{blob_in_v2(name)}"


def blob_in_v2(name):
    hex_ = name.split(":")[1]
    return f"blobs/sha256/{hex_[:2]}/{hex_}/data"


def encode(value):
    return json.dumps(value, indent=1, sort_keys=True).encode()


class Store:
    """`root` is what a registry's configuration calls `rootdirectory`."""

    def __init__(self, root):
        self._v2 = f"{root}/{V2}"

    def _write(self, path, data):
        path = f"{self._v2}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path) or open(path, "rb").read() != data:
            with open(path, "wb") as file:
                file.write(data)

    def _blob(self, repository, data, kind):
        """Stores `data` and links it from the repository as a layer or a manifest revision."""
        name = digest(data)
        hex_ = name.split(":")[1]
        self._write(blob_in_v2(name), data)
        self._write(f"repositories/{repository}/{kind}/sha256/{hex_}/link", name.encode())
        return name

    def _tag(self, repository, tag, name):
        hex_ = name.split(":")[1]
        tags = f"repositories/{repository}/_manifests/tags/{tag}"
        self._write(f"{tags}/current/link", name.encode())
        self._write(f"{tags}/index/sha256/{hex_}/link", name.encode())

    def manifest(self, repository, image, tag=None):
        """Stores `image`; returns its manifest's descriptor."""
        docker = image.format == "docker"
        layers = []
        for tar, compression in image.layers:
            data = {"gzip": compress_gzip, "zstd": compress_zstd, "none": bytes}[compression](tar)
            suffix = "" if compression == "none" else f"+{compression}"
            media = f"{DOCKER}image.rootfs.diff.tar.gzip" if docker else f"{OCI}layer.v1.tar{suffix}"
            layers.append({"mediaType": media, "size": len(data), "digest": self._blob(repository, data, "_layers")})
        config = encode(image.config())
        body = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}distribution.manifest.v2+json" if docker else f"{OCI}manifest.v1+json",
            "config": {
                "mediaType": f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json",
                "size": len(config),
                "digest": self._blob(repository, config, "_layers"),
            },
            "layers": layers,
        }
        if image.tamper:
            image.tamper(body)
        return self.put(repository, body, tag)

    def index(self, repository, manifests, tag, docker=False):
        """Stores a list of (descriptor, platform)."""
        body = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}distribution.manifest.list.v2+json" if docker else f"{OCI}index.v1+json",
            "manifests": [descriptor | {"platform": platform} for descriptor, platform in manifests],
        }
        return self.put(repository, body, tag)

    def put(self, repository, body, tag=None):
        data = encode(body)
        name = self._blob(repository, data, "_manifests/revisions")
        if tag:
            self._tag(repository, tag, name)
        return {"mediaType": body["mediaType"], "size": len(data), "digest": name}

    def retag(self, repository, tag, descriptor):
        self._tag(repository, tag, descriptor["digest"])


class Image:
    """Layers and what the config says about running them."""

    def __init__(self, *layers, format="oci", architecture="amd64", tamper=None, compression="gzip", **config):
        self.layers = [layer if isinstance(layer, tuple) else (layer, compression) for layer in layers]
        self.format, self.architecture, self.tamper, self._config = format, architecture, tamper, config

    def config(self):
        run = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]} | self._config
        return {
            "created": "2020-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar, _ in self.layers]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests/images"} for _ in self.layers],
        }

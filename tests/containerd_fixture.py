"""A real containerd for tests, in a folder of its own, and a small image without a registry."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from hashlib import sha256
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / ".tools" / "bin"
STARTED_WITHIN_S = 30.0


def program(name: str) -> str:
    """containerd or ctr, on PATH or the checkout's own. Skips the test where there is none."""
    found = shutil.which(name) or (str(TOOLS / name) if (TOOLS / name).exists() else None)
    if not found:
        pytest.skip(f"no {name}: run make setup, or apt-get install containerd")
    if os.geteuid() != 0:
        pytest.skip("containerd unpacks images as root only")
    return found


class LocalContainerd:
    """A daemon without the Kubernetes parts, and nothing in it."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "c.sock"  # short: a socket's path may have 107 letters
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> LocalContainerd:
        """Return when it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self._folder}/root"\nstate = "{self._folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.socket}"\n'
        )
        log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen([program("containerd"), "--config", str(config)], stdout=log, stderr=log)
        deadline_s = time.monotonic() + STARTED_WITHIN_S
        while self._ctr("version").returncode:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline_s, (self._folder / "log").read_text()
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(30)

    def load(self, name: str, snapshotter: str, unpack: bool = True) -> None:
        """Import a small image under this name."""
        archive = self._folder / "image.tar"
        write_image(archive, name)
        how = [] if unpack else ["--no-unpack"]
        done = self._ctr("images", "import", "--snapshotter", snapshotter, *how, str(archive))
        assert done.returncode == 0, done.stderr.decode()

    def remove(self, name: str) -> None:
        """Remove an image, and what only it needed."""
        assert self._ctr("images", "rm", "--sync", name).returncode == 0

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [program("ctr"), "--address", str(self.socket), "--namespace", "flintlock", *arguments]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)


def write_image(path: Path, name: str) -> None:
    """An OCI image layout as a tar file: one layer with one file in it, other for each name."""
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, object]:
        digest = sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    files = tar({"boot/vmlinux": name.encode()})
    layer = blob("layer.v1.tar+gzip", gzip.compress(files, mtime=0))
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha256(files).hexdigest()}"]}
    config = blob("config.v1+json", json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode())
    parts = {"schemaVersion": 2, "config": config, "layers": [layer]}
    manifest = blob("manifest.v1+json", json.dumps(parts).encode())
    manifest["annotations"] = {"io.containerd.image.name": name}
    index = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    path.write_bytes(tar({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}))


def tar(files: dict[str, bytes]) -> bytes:
    """A tar of these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()

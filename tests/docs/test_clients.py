"""The versions of clients in docs/compatibility.md are those that the interop tests run."""

from __future__ import annotations

import json
import re

import grpc
import pytest

from tests.docs.pages import ROOT
from tests.interop.toolchain import HERE, TOOLS

PAGE = (ROOT / "docs/compatibility.md").read_text()
LOCKED = json.loads((HERE / "node" / "package-lock.json").read_text())["packages"][""]["dependencies"]
GO_MODULES = (HERE / "go" / "go.mod").read_text()
VERSIONS = {
    "grpc-go": re.search(r"google\.golang\.org/grpc v(\S+)", GO_MODULES)[1],
    "grpcurl": TOOLS["grpcurl"].partition("@v")[2],
    "ghz": TOOLS["ghz"].partition("@v")[2],
    "grpc-js": LOCKED["@grpc/grpc-js"],
    "grpc.aio": grpc.__version__,
}


@pytest.mark.parametrize("client", VERSIONS)
def test_the_page_names_the_version_that_is_run(client):
    assert f"| {client} | {VERSIONS[client]} |" in PAGE

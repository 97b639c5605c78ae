"""Parsing a YAML or JSON spec into a MicroVMSpec."""

import base64

import pytest

from billet.commands.spec import copies, parse_spec, read_spec
from billet.core.errors import InvalidRequest
from billet.wire.pb.flintlock_types_pb2 import NetworkInterface

YAML = """
id: web
vcpu: 2
memory_in_mb: 2048
kernel: {image: k, filename: vmlinux}
root_volume: {id: root, source: {container_source: r}}
interfaces: [{device_id: eth1, type: TAP}]
metadata_text: {user-data: "#cloud-config"}
"""


def test_yaml_with_the_protos_own_names():
    spec = parse_spec(YAML, "web.yaml")
    assert (spec.id, spec.vcpu, spec.memory_in_mb, spec.kernel.filename) == ("web", 2, 2048, "vmlinux")
    assert spec.interfaces[0].type == NetworkInterface.TAP
    assert base64.b64decode(spec.metadata["user-data"]) == b"#cloud-config"


def test_json_with_camel_case_and_the_requests_outer_key():
    spec = parse_spec('{"microvm": {"id": "a", "memoryInMb": 1024, "rootVolume": {"id": "root"}}}', "-")
    assert (spec.memory_in_mb, spec.root_volume.id) == (1024, "root")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("vcpus: 2", 'it has no field named "vcpus"; did you mean vcpu?'),
        ("memory_in_mib: 2", "did you mean memory_in_mb?"),
        ("memoryInMib: 2", "did you mean memoryInMb?"),
        (
            "root_volume: {source: {xyz: 1}}",
            'root_volume.source has no field named "xyz"; its fields are container_source',
        ),
        (
            "rootVolume: {source: {xyz: 1}}",
            'rootVolume.source has no field named "xyz"; its fields are containerSource',
        ),
        ("interfaces: [{device_id: eth1, type: X}]", "interfaces.type: Invalid enum value X for enum type"),
        ("vcpu: 2.5", "is not a MicroVMSpec: vcpu: Couldn't parse integer: 2.5"),
        ("- 1", "contains no MicroVMSpec"),
        ("", "contains no MicroVMSpec"),
        ("a: [", "neither YAML nor JSON"),
        ("vcpu: many", "is not a MicroVMSpec: vcpu: 'many' is not a whole number"),
        ("labels: {billet.io/priority: 5}", "labels: billet.io/priority is 5; put it in quotes"),
        ("labels: {a: yes}", "labels: a is true; put it in quotes"),
        ("metadata_text: 5", "metadata_text must map"),
    ],
)
def test_an_error_names_the_wrong_field(text, why):
    with pytest.raises(InvalidRequest, match="web") as error:
        parse_spec(text, "web.yaml")
    assert why in error.value.text
    assert len(error.value.text.splitlines()) == 1


def test_a_missing_file():
    with pytest.raises(InvalidRequest, match="No such file"):
        read_spec("/no/such.yaml")


def test_count_numbers_the_names():
    spec = parse_spec(YAML, "web.yaml")
    assert [copy.id for copy in copies(spec, "", "", 3)] == ["web-1", "web-2", "web-3"]
    assert [(copy.id, copy.namespace) for copy in copies(spec, "db", "team", 1)] == [("db", "team")]

"""Workloads are read from JSON and CSV, and what is wrong in them is named with its place."""

import json

import pytest

from billet.core import constraints as constraints
from billet.core.errors import ConfigError
from billet.core.model import Resources
from billet.whatif.workload import Create, Delete, Mark, Traits, read

GOOD = """op,name,vcpu,memory_mib,disk_mib,vms,zone,labels
# two hosts
host,h1,32,131072,500000,100
host,h2,64,131072

create,a,2,8192
create,b,4,8192,1000
delete,a
mark,filled
"""


def written(tmp_path, text, name="w.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv_is_read_as_it_stands(tmp_path):
    workload = read(written(tmp_path, GOOD))
    assert workload.hosts == {"h1": Resources(32, 131072, 500000, 100), "h2": Resources(64, 131072, 0, 1000)}
    assert workload.events == [
        Create("a", Resources(2, 8192, 0, 1)),
        Create("b", Resources(4, 8192, 1000, 1)),
        Delete("a"),
        Mark("filled"),
    ]


@pytest.mark.parametrize(
    "export",
    [
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),  # Excel's "CSV UTF-8"
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("\n\n", "\n,,,,,,,\n").replace("delete,a", "delete,a,,,,,,"),
    ],
    ids=["byte order mark", "semicolons", "tabs", "spaces", "empty cells"],
)
def test_csv_is_read_as_spreadsheets_write_it(tmp_path, export):
    assert read(written(tmp_path, export(GOOD))) == read(written(tmp_path, GOOD))
    assert read(written(tmp_path, export(GOOD), "w.CSV")) == read(written(tmp_path, GOOD))


def test_the_first_row_says_which_column_is_which(tmp_path):
    text = "name,op,memory_mib,vcpu\nh1,host,8192,4\na,create,2048,1\n"
    workload = read(written(tmp_path, text))
    assert workload.hosts == {"h1": Resources(4, 8192, 0, 1000)}
    assert workload.events[0] == Create("a", Resources(1, 2048, 0, 1))


@pytest.mark.parametrize("comma", [",", ";"])
def test_zones_and_labels_go_by_the_names_of_their_columns_too(tmp_path, comma):
    rows = "op,name,labels,zone,vcpu,memory_mib\nhost,h1,disk=nvme,a,4,8192\ncreate,a,billet.io/zone=a,,1,2048\n"
    workload = read(written(tmp_path, rows.replace(",", comma)))
    assert workload.traits == {"h1": Traits("a", {"disk": "nvme"})}
    assert workload.events[0].wanted.constraints.zone == "a"


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ("op,name,vcpu,memory", "line 1: column 'memory' is unknown; the columns are op, name, vcpu, memory_mib,"),
        ("op,name,vcpu,vcpu", "line 1: column 'vcpu' is repeated; the columns are op, name,"),
    ],
)
def test_a_column_that_is_not_known_is_named(tmp_path, heads, says):
    with pytest.raises(ConfigError) as error:
        read(written(tmp_path, heads + "\nhost,h1,8,8192\n"))
    assert says in error.value.text


def test_json_says_the_same(tmp_path):
    tree = {
        "hosts": [
            {"id": "h1", "vcpu": 32, "mem_mib": 131072, "disk_mib": 500000, "vms": 100},
            {"id": "h2", "vcpu": 64, "memory_mib": 131072},
        ],
        "events": [
            {"op": "create", "vm": "a", "vcpu": 2, "mem_mib": 8192, "app": "x"},
            {"op": "create", "vm": "b", "vcpu": 4, "mem_mib": 8192, "disk_mib": 1000},
            {"op": "delete", "vm": "a"},
            {"op": "mark", "name": "filled"},
        ],
    }
    path = written(tmp_path, json.dumps(tree), "w.json")
    assert read(path) == read(written(tmp_path, GOOD))


def test_without_marks_the_end_is_measured(tmp_path):
    assert read(written(tmp_path, GOOD.replace("mark,filled\n", ""))).marks() == ["end"]


def test_hosts_have_zones_and_labels_and_microvms_constraints(tmp_path):
    """In both formats; a microVM without constraints costs the engine nothing."""
    table = """host,h1,8,8192,,,a,disk=nvme gpu=yes
host,h2,8,8192,,,b
host,h3,8,8192
create,c-control-plane-1,2,1024,,,,billet.io/require.disk=nvme cluster-name=c
create,plain,1,1024,,,,app=web
create,bare,1,1024
"""
    hosts = [
        {"id": "h1", "vcpu": 8, "memory_mib": 8192, "zone": "a", "labels": {"disk": "nvme", "gpu": "yes"}},
        {"id": "h2", "vcpu": 8, "memory_mib": 8192, "zone": "b"},
        {"id": "h3", "vcpu": 8, "memory_mib": 8192},
    ]
    with_preferences = {"billet.io/require.disk": "nvme", "cluster-name": "c"}
    events = [
        {"op": "create", "vm": "c-control-plane-1", "vcpu": 2, "memory_mib": 1024, "labels": with_preferences},
        {"op": "create", "vm": "plain", "vcpu": 1, "memory_mib": 1024, "labels": {"app": "web"}},
        {"op": "create", "vm": "bare", "vcpu": 1, "memory_mib": 1024},
    ]
    workload = read(written(tmp_path, table))
    assert workload == read(written(tmp_path, json.dumps({"hosts": hosts, "events": events}), "w.json"))
    assert workload.traits == {"h1": Traits("a", {"disk": "nvme", "gpu": "yes"}), "h2": Traits("b")}
    plane, plain, bare, _ = workload.events
    assert (plane.wanted.constraints.require, plane.wanted.constraints.plane) == ((("disk", "nvme"),), True)
    assert plain.wanted is bare.wanted is None
    assert workload.constraints


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "create,c,1,1024,,,,billet.io/zon=a",
            "line 10: label billet.io/zon='a' is unknown: " + constraints.ALLOWED,
        ),
        ("create,c,1,1024,,,a", "line 10: microVM c has a zone; use the label billet.io/zone"),
        ("host,h1,8,8192", "line 10: host h1 is repeated"),
        ("create,b,1,1024", "line 10: microVM b is created twice; use unique names"),
        ("host,h3,8,8192", "line 10: host h3 comes after the first event; list all hosts first"),
        ("create,c,two,1024", "line 10: vcpu is 'two'; write a whole number"),
        ("create,c,2", "line 10: memory_mib is missing; write a whole number"),
        ("create,c,0,1024", "line 10: vcpu and memory_mib must be at least 1"),
        ("create,c,2,-1", "line 10: memory_mib is -1; it must not be negative"),
        ("create,,2,1024", "line 10: this create has no name"),
        ("delete,z", "line 10: microVM z is deleted before it is created"),
        ("mark,filled", "line 10: mark filled is repeated"),
        ("destroy,a", "line 10: 'destroy' is not one of host, create, delete, mark"),
        ("create,c,1,1024,0,1,,,9", "line 10: 9 columns; the maximum is 8"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, says):
    path = written(tmp_path, GOOD + line + "\n")
    with pytest.raises(ConfigError) as error:
        read(path)
    assert error.value.text == f"{path}, {says}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a workload"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"hosts": 3}', "'hosts' is not a list"),
        ('{"hosts": [1]}', "hosts[0] is not an object"),
        ('{"hosts": [], "events": []}', "has no hosts"),
        ('{"hosts": [{"id": "h", "vcpu": 1.5, "mem_mib": 9}]}', "hosts[0]: vcpu is 1.5; write a whole number"),
        ('{"hosts": [{"id": "h", "vcpu": true, "mem_mib": 9}]}', "hosts[0]: vcpu is True; write a whole number"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, says):
    with pytest.raises(ConfigError) as error:
        read(written(tmp_path, text, "w.json"))
    assert says in error.value.text


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(tmp_path / "none.csv")

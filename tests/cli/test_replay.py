"""`billet replay` from servers' files: output and errors."""

import json
import re

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.commands.replay import shapes
from billet.core.errors import ConfigError
from billet.core.model import Resources
from billet.store.auction_log import AuctionLog
from billet.wire.auction_records import encode, encode_gone
from tests.whatif.test_recorded_workload import a_day


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A server's --data-dir with records."""
    made = tmp_path_factory.mktemp("server")
    day, log = a_day(3, events=80), AuctionLog(made / "auctions.db")
    for record in day.records:
        log.append(record.auction.id, [], encode(record))
    for end in day.ends:
        log.append_gone(encode_gone(end))
    log.close()
    return made


def replay(*arguments):
    return CliRunner().invoke(main, ["replay", *map(str, arguments)], catch_exceptions=False)


def test_the_table_compares_history_with_replays_and_lists_assumptions(folder, tmp_path):
    page = tmp_path / "report.html"
    result = replay("--data-dir", folder, "--policy", "pack", "--policy", "spread", "--html", page)
    assert result.exit_code == 0, result.output
    assert f"auctions in {folder}" in result.stdout
    rows = {line.split("  ")[0].strip(): line.split() for line in result.stdout.splitlines()}
    assert rows["as it happened"][-1] == rows["billet spread"][-1] == "0"
    assert int(rows["billet pack"][-1]) > 0
    assert rows["as it happened"][3:] == rows["billet spread"][2:]
    assert "Assumptions:\n- creates are decided one at a time" in result.stdout
    text = page.read_text()
    assert "<h1>billet replay</h1>" in text
    assert "Assumed: creates are decided one at a time" in text
    assert text.count("<svg") == 4 + 3


def test_other_fleets_and_json(folder):
    result = replay("--data-dir", folder, "--without", "h1", "--with", "2\u00d764c512g", "-o", "json")
    happened, other = json.loads(result.stdout)["rows"]
    assert other["rule"] == "billet spread, without h1, with 2 more"
    assert other["elsewhere"] > 0
    assert other["marks"]["end"]["load"] < happened["marks"]["end"]["load"]
    assert any("h1" in note for note in json.loads(result.stdout)["assumed"])


def test_the_shadow_policy_is_compared_and_replayed(folder, tmp_path):
    log = AuctionLog(tmp_path / "auctions.db")
    for record in a_day(3, events=30).records:
        for attempt in record.attempts:
            attempt.shadow = "h0"
        record.shadow = "pack"
        log.append(record.auction.id, [], encode(record))
    log.close()
    result = replay("--data-dir", tmp_path, "--shadow")
    assert re.search(r"The shadow policy pack chose another host in \d+ of \d+ awards", result.stdout)
    assert "billet pack" in result.stdout
    assert "no shadow policy was set" in replay("--data-dir", folder, "--shadow").stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--without", "h99"], "no host 'h99' is on record; the recorded hosts are h0, h1"),
        (["--with", "three"], "write NxSHAPE, for example 3x16c32g"),
        (["--with", "99999999999x16c32g"], "the maximum is 100000 hosts"),
        ([f for n in range(6) for f in ("--without", f"h{n}")], "leaves no host"),
    ],
)
def test_each_error_is_one_line(folder, arguments, why):
    result = replay("--data-dir", folder, *arguments)
    assert result.exit_code != 0
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_without_records(tmp_path):
    assert "cannot be read" in replay("--data-dir", tmp_path).stderr
    AuctionLog(tmp_path / "auctions.db").close()
    assert re.search("no auctions on record in .*--record-auctions", replay("--data-dir", tmp_path).stderr)


def test_shapes_of_hosts():
    assert shapes("2x16c32g") == [Resources(16, 32768, 0, 1000)] * 2
    assert shapes("1\u00d78c16g500d") == [Resources(8, 16384, 512_000, 1000)]
    for wrong in ("0x16c32g", "16c32g", "2x16c", "x16c32g"):
        with pytest.raises(ConfigError):
            shapes(wrong)

"""The alerts: each is valid, is tested, and has a paragraph of the runbook; the dashboard is what its code makes."""

from __future__ import annotations

import json
import re
import subprocess

import yaml

from billet.api.meters import Meters
from scripts.dashboard import PATH, ROWS, dashboard
from tests.deploy.programs import DEPLOY, ROOT, program

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
NAMES = [rule["alert"] for rule in RULES]
NAME = re.compile(r"\bbillet_\w+")
PARTS = ("_total", "_bucket", "_count", "_sum", "_created")  # of a counter's or a histogram's name


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid_and_their_tests_pass() -> None:
    """Broken on purpose (a threshold is changed; a rule is misspelt): promtool fails."""
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_each_alert_fires_in_a_test_is_silent_in_another_and_has_a_runbook() -> None:
    """Broken on purpose (a paragraph of the runbook is renamed): fails at its alert."""
    expected = [(one["alertname"], bool(one.get("exp_alerts"))) for test in TESTS for one in test["alert_rule_test"]]
    assert sorted(expected) == sorted((name, fires) for name in NAMES for fires in (True, False))
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert f"\n### {rule['alert']}\n" in OPERATIONS
    assert re.findall(r"^### (Billet\w+)$", OPERATIONS, re.MULTILINE) == NAMES


def test_the_example_of_prometheus_settings_is_valid(tmp_path) -> None:
    text = (DEPLOY / "prometheus.yml").read_text().replace("alerts.yml", str(DEPLOY / "alerts.yml"))
    for token in ("billet.token", "agents.token"):
        (tmp_path / token).write_text("x")
    (tmp_path / "prometheus.yml").write_text(text)
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_the_dashboard_is_what_its_code_makes() -> None:
    """Broken on purpose (a panel is added and the file is not made anew): fails."""
    assert json.loads(PATH.read_text()) == dashboard(), "run python -m scripts.dashboard"


def test_alerts_and_panels_use_metrics_that_the_documentation_has() -> None:
    """Broken on purpose (a metric is renamed in its alert): fails with its name."""
    queries = [query for row in ROWS.values() for panel in row for query, _ in panel.queries]
    used = {name for text in (*queries, *(rule["expr"] for rule in RULES)) for name in NAME.findall(text)}
    documented = set(re.findall(r"`(billet_\w+)[`…]", OPERATIONS))
    for name in used:
        base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
        whole = {name, base, f"{base}_total"}
        assert whole & documented or name.startswith("billet_bid_"), name
    counted = {family.name for family in Meters().collect()}
    assert counted <= {name.removesuffix("_total") for name in documented}

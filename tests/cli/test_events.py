"""Events as lines, and what `explain` says became of a microVM."""

from __future__ import annotations

from billet.show.events import event_line, fate

RECORD = {
    "at_s": 1000.0,
    "attempts": [
        {
            "award": {"host": "h2"},
            "bids": [
                {"host": "h1", "forecast": {"created_s": 9.0, "bound_s": 9.0}},
                {"host": "h2", "forecast": {"created_s": 1.0, "bound_s": 2.0}},
            ],
        }
    ],
}


def said(*events: dict[str, object]) -> str:
    text = fate(RECORD | {"events": events})
    return text.plain.strip() if text else ""


def test_an_event_is_one_line_with_what_it_is_about() -> None:
    line = event_line(
        {
            "at_s": 1e9,
            "type": "microvm-created",
            "microvm": "ns/web",
            "host": "h1",
            "text": "CREATED",
            "after_s": 1.25,
        }
    ).plain
    assert line.endswith("  microvm-created   ns/web h1  CREATED after 1.2 s")
    assert "\n" not in event_line({"type": "x", "text": "y"}).plain


def test_explain_says_what_became_of_a_microvm_beside_what_was_predicted() -> None:
    """Broken on purpose (the first bid's forecast): predicted 9 s."""
    created = {"type": "microvm-created", "at_s": 1001.2, "after_s": 1.2, "uid": "u"}
    assert said({"type": "microvm-placed", "at_s": 1000.1, "uid": "u"}) == ""
    assert said(created) == "what became of it: CREATED after 1.2 s (predicted 1.0 s, 90 % within 2.0 s)"
    failed = {"type": "microvm-failed", "at_s": 1003.0, "uid": "u", "text": "did not boot on h2: FAILED, 3 retries"}
    deleted = {"type": "microvm-deleted", "at_s": 1000.0 + 7200, "uid": "u"}
    assert said(failed, deleted) == ("what became of it: did not boot on h2: FAILED, 3 retries; deleted after 2 h")
    assert said({"type": "microvm-fenced", "at_s": 1060.0}) == "what became of it: fenced after 1 min"
    assert (
        said({"type": "microvm-failed", "at_s": 1000.0, "text": "the create itself, which the outcome tells"}) == ""
    )

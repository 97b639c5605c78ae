"""Labels that few hosts have, such as a GPU: microVMs that do not ask for them fill these hosts last.

scarcity = max(0, 2 x usual - 1) for a host whose value of a label is not the usual one; `usual` is the share of the
fleet's hosts that have the most common value, or no such label where most have none. So it is the margin by which
most hosts are like each other and unlike this one: 0.9 for one host of twenty, 0.5 for one of four, 0 for half.

A label that is different on every host (its name, its rack) has no usual value, and counts nowhere. It need not have
been asked for: who labels a few hosts will ask for them, perhaps when the fleet is full of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from billet.core.memory import remember


class Scarcity(NamedTuple):
    """How scarce a host is for a microVM, 0 to 1, and the label ("gpu=yes") that makes it so."""

    share: float = 0.0
    label: str = ""


PLENTIFUL = Scarcity()
Labels = tuple[tuple[str, str], ...]  # with their values
REMEMBERED = 100  # sets of required labels


class LabelCounts:
    """The labels of all hosts, counted by value. A change costs O(labels of the host), the next question O(hosts)."""

    def __init__(self) -> None:
        self._hosts: dict[str, Mapping[str, str]] = {}
        self._counts: dict[str, Counter[str]] = {}  # label -> hosts by value
        self._usual: dict[str, tuple[str | None, float]] = {}  # label -> usual value (None: no such label), margin
        self._scarce: dict[Labels, Mapping[str, Scarcity]] = {}  # required labels -> scarce hosts; a cache

    def put(self, host_id: str, labels: Mapping[str, str]) -> None:
        """Set a host's labels."""
        if self._hosts.get(host_id) != labels:
            self.drop(host_id)
            self._hosts[host_id] = labels
            for label, value in labels.items():
                self._counts.setdefault(label, Counter())[value] += 1
            self._forget()

    def drop(self, host_id: str) -> None:
        """Remove a host, if it is there."""
        for label, value in self._hosts.pop(host_id, {}).items():
            counts = self._counts[label]
            counts[value] -= 1
            if not counts[value]:
                del counts[value]
            if not counts:
                del self._counts[label]
        self._forget()

    def scarcity(self, host_id: str, required: Labels = ()) -> Scarcity:
        """How scarce a host is for a microVM that requires these labels. They do not count: it asks for them."""
        return self.scarce(required).get(host_id, PLENTIFUL)

    def scarce(self, required: Labels = ()) -> Mapping[str, Scarcity]:
        """The hosts that are scarce for a microVM that requires these labels."""
        found = self._scarce.get(required)
        if found is None:
            all_ = ((host_id, self._scarcest(labels, required)) for host_id, labels in self._hosts.items())
            found = {host_id: scarcity for host_id, scarcity in all_ if scarcity.share}
            remember(self._scarce, required, found, REMEMBERED)
        return found

    def _scarcest(self, labels: Mapping[str, str], required: Labels) -> Scarcity:
        scarcest = PLENTIFUL
        for label, value in sorted(labels.items()):
            usual, margin = self._usual_value(label)
            if margin > scarcest.share and value != usual and (label, value) not in required:
                scarcest = Scarcity(margin, f"{label}={value}")
        return scarcest

    def _usual_value(self, label: str) -> tuple[str | None, float]:
        known = self._usual.get(label)
        if known is None:
            counts, hosts = self._counts[label], len(self._hosts)
            value, most = max(counts.items(), key=lambda item: item[1])
            without = hosts - counts.total()
            usual, count = (None, without) if without > most else (value, most)
            known = self._usual[label] = usual, max(0.0, 2 * count / hosts - 1)
        return known

    def _forget(self) -> None:
        self._usual.clear()
        self._scarce.clear()

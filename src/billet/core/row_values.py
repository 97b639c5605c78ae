"""What the rows of a fleet (core/columns.py) have in common: texts, and the members of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from billet.core.groups import Counted
from billet.core.memory import remember
from billet.core.model import Group

Column = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

GROUPS = 100  # whose members are kept counted


class Texts:
    """A text for each row, as a number: comparing texts costs a call for each row."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def put(self, row: int, text: str) -> None:
        """Set a row's text."""
        if row >= len(self._rows):
            self._rows = np.concatenate((self._rows, np.full(row + 1, -1, np.int64)))
        self._rows[row] = self._numbers.setdefault(text, len(self._numbers))

    def rows_of(self, text: str, count: int) -> Mask:
        """The rows that have a text, of the first `count` rows."""
        found: Mask = self._shown(count) == self._numbers.get(text, -2)
        return found

    def texts(self) -> Iterable[str]:
        """Every text that a row has had."""
        return self._numbers

    def number(self, text: str) -> int | None:
        """A text's place in what `spread_out` takes; None: no row has had it."""
        return self._numbers.get(text)

    def spread_out(self, by_number: Column, count: int) -> Column:
        """For each row the value at its text's number. The last value is that of rows without a text."""
        return by_number[self._shown(count)]

    def _shown(self, count: int) -> npt.NDArray[np.int64]:
        if count > len(self._rows):
            self._rows = np.concatenate((self._rows, np.full(count - len(self._rows), -1, np.int64)))
        return self._rows[:count]


class Crowd(NamedTuple):
    """A group's members: their number on each row's host, and in each failure domain by its number in `Texts`."""

    here: Column
    by_domain: Column


class Crowds:
    """Where the members of groups are, row by row.

    A group is counted when it is asked for first, which looks at all its hosts. From then on it costs O(1) a change.
    """

    def __init__(self, rows: Mapping[str, int], domains: Texts) -> None:
        """`rows`: of the hosts; `domains`: of the rows, a zone or `host ID`. Both are the fleet's own."""
        self._rows = rows
        self._domains = domains
        self._known: dict[Group, Crowd] = {}

    def of(self, counted: Counted, count: int) -> Crowd:
        """A group's members on `count` rows. Nobody may change the columns."""
        known = self._known.get(counted.group)
        if known is None:
            known = self._counted(counted, count)
            remember(self._known, counted.group, known, GROUPS)
        return known

    def _counted(self, counted: Counted, count: int) -> Crowd:
        crowd = Crowd(np.zeros(count), np.zeros(len(self._domains) + 1))
        for host_id, names in counted.hosts.items():
            _add(crowd.here, self._rows.get(host_id), len(names))
        for domain, number in counted.zones.items():
            _add(crowd.by_domain, self._domains.number(domain), number)
        return crowd

    def moved(self, group: Group, host_id: str, domain: str, by: int) -> None:
        """A group has one member more (`by` = 1) or less (-1) on a host, and in its failure domain."""
        if (known := self._known.get(group)) is not None:
            _add(known.here, self._rows.get(host_id), by)
            _add(known.by_domain, self._domains.number(domain), by)

    def clear(self) -> None:
        """A row has another host, or another failure domain: count anew."""
        self._known.clear()

    def check(self, counted: Callable[[Group], Counted]) -> None:
        """Raise AssertionError if a group that is kept is not where it is. For tests."""
        for group, known in self._known.items():
            anew = self._counted(counted(group), len(known.here))
            assert np.array_equal(anew.here, known.here), group
            assert np.array_equal(anew.by_domain, known.by_domain), group


def _add(column: Column, at: int | None, number: int) -> None:
    if at is not None:
        column[at] += number

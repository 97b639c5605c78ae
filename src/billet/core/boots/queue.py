"""One host's boot queue: the microVMs that wait, the images they need, and the images that the host has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from billet.core.boots.deletes import DeleteQueue
from billet.core.boots.estimator import BootEstimator
from billet.core.boots.forecast import bound_s
from billet.core.memory import remember
from billet.core.model import Facts, Image
from billet.core.report import HostImages

LOOK_S = 0.25
SHORT_S = 0.2  # shorter boots are not looked at more often
REMEMBERED = 1000  # forecasts that are kept for microVMs that never boot


class BootQueue:
    """The queue in front of the boot worker, and the images on the host.

    With containerd, the images that it has unpacked are known. Without, only those that flintlockd has booted from
    since the agent started; other images count as missing only once a pull was seen.
    """

    def __init__(self) -> None:
        self.boots = BootEstimator()
        self.deletes = DeleteQueue()
        self._waiting: dict[str, tuple[Image, ...]] = {}  # by token, or by uid without one; in order
        self._wanted: Counter[Image] = Counter()  # by waiting microVMs
        self._unpacked: set[Image] = set()
        self._listed = False  # containerd has listed its images
        self._forecasts: dict[str, tuple[float, float]] = {}  # by token: time of the forecast, and the bound

    def unpacked(self, images: frozenset[Image] | None) -> None:
        """The images that containerd has unpacked; None when it cannot be asked."""
        self._listed = images is not None
        if images is not None:
            self._unpacked = set(images)

    @property
    def images(self) -> int | None:
        """The number of unpacked images; None when containerd cannot be asked."""
        return len(self._unpacked) if self._listed else None

    @property
    def pending(self) -> int:
        """The number of microVMs that wait for their boot, creates in hand included."""
        return len(self._waiting)

    @property
    def look_every_s(self) -> float:
        """Seconds between looks at the running boot, so that its time is known to about an eighth."""
        boot_s = self.boots.boot_s
        return min(LOOK_S, boot_s / 8) if boot_s > SHORT_S else LOOK_S

    def facts(self, pressure: float | None, now_s: float) -> Facts:
        """The facts that this host's bids carry."""
        boots, pending = self.boots, len(self._waiting)
        pulls = self._lacking(self._wanted)
        ahead_s = self._ahead_s(pending, pulls, now_s)
        return Facts(
            pressure=pressure,
            pending=pending,
            boot_s=boots.boot_s,
            ahead_s=ahead_s,
            pull_s=boots.pull_s,
            uncertainty=boots.uncertainty,
            pulls=pulls,
            boots_seen=boots.boots_seen,
            pulls_seen=boots.pulls_seen,
        )

    def _ahead_s(self, pending: int, pulls: int, now_s: float) -> float | None:
        """Seconds until these are CREATED, behind the Deletes that wait; None before the first boot."""
        ahead_s = self.boots.ahead_s(pending, pulls, now_s)
        return None if ahead_s is None else ahead_s + self.deletes.ahead_s

    def missing(self, images: Iterable[Image]) -> int:
        """How many of these images would have to be pulled for this microVM alone."""
        return self._lacking(image for image in images if not self._wanted[image])

    @property
    def at_hand(self) -> HostImages | None:
        """The images that a microVM would not have to pull alone; None while no image counts as missing."""
        if not self._listed and self.boots.pull_s is None:
            return None
        unpacked = frozenset(self._unpacked)
        return HostImages(unpacked, frozenset(self._wanted) - unpacked)

    def coming(self, images: Iterable[Image]) -> int:
        """How many of these images are not unpacked yet, but will be pulled for microVMs that wait already."""
        return self._lacking(image for image in images if self._wanted[image])

    def _lacking(self, images: Iterable[Image]) -> int:
        if not self._listed and self.boots.pull_s is None:
            return 0
        return len(set(images) - self._unpacked)

    # Events.

    def forecast(self, token: str, images: tuple[Image, ...], now_s: float) -> None:
        """A create begins: note the bound of its forecast, to compare it with the actual boot."""
        bound = bound_s(self.facts(None, now_s), self.missing(images))
        if bound is not None:
            remember(self._forecasts, token, (now_s, bound), REMEMBERED)

    def waits(self, key: str, images: tuple[Image, ...]) -> None:
        """A microVM joins the queue. `key` is its token, or its uid if it has none."""
        if key not in self._waiting:
            self._waiting[key] = images
            self._wanted.update(images)

    def waits_no_longer(self, key: str) -> None:
        """A microVM has booted, failed, or is gone."""
        for image in self._waiting.pop(key, ()):
            self._wanted[image] -= 1
            if not self._wanted[image]:
                del self._wanted[image]

    def failed(self, key: str) -> None:
        """A boot has failed and will be retried: it waits aside, and others go on. Its forecast was for this boot."""
        self.waits_no_longer(key)
        self._forecasts.pop(key, None)

    def listed(self, deletes: int, removed: int, boots: bool, now_s: float) -> None:
        """See DeleteQueue. Time in which only Deletes were carried out is no boot time."""
        self.deletes.listed(deletes, removed, boots or bool(self._waiting), now_s)
        if removed and not boots:
            self.boots.gave_up()

    def looked(self, rows: Sequence[tuple[str, tuple[Image, ...]]], now_s: float, in_hand: int = 0) -> None:
        """`rows` (token, images) became CREATED since the last look. Of those that still wait, flintlockd does not
        know the `in_hand` creates yet."""
        self.boots.looked(len(rows), self._booted(rows, now_s), self.pending - in_hand, now_s)
        self.boots.late = self._late(now_s)

    def _booted(self, rows: Iterable[tuple[str, tuple[Image, ...]]], now_s: float) -> int:
        """The number of images that were pulled for these boots."""
        used: set[Image] = set()
        for token, images in rows:
            used.update(images)
            if token in self._forecasts:
                began_s, bound = self._forecasts.pop(token)
                self.boots.created(now_s - began_s, bound)
        pulled = len(used - self._unpacked)
        self._unpacked |= used
        return pulled

    def _late(self, now_s: float) -> int:
        """How many waiting microVMs will exceed their bound, by the current estimate.

        The last of a long queue is CREATED long after its forecast. To learn only from boots that are done would mean
        to go on with bounds that are already known to be wrong.
        """
        late, lacking = 0, set[Image]()
        for place, (token, images) in enumerate(self._waiting.items(), 1):
            lacking.update(image for image in images if image not in self._unpacked)
            if token in self._forecasts:
                began_s, bound = self._forecasts[token]
                still_s = self._ahead_s(place, len(lacking), now_s) or 0.0
                late += now_s - began_s + still_s > bound
        return late

    def runs(self, images: Iterable[Image]) -> None:
        """A running microVM uses these images, so the host has them."""
        self._unpacked.update(images)

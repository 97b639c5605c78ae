"""One host's boots: what waits for one, which images it needs, which of them are here, and what that foretells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from billet.core.boots.estimator import BootEstimator
from billet.core.boots.forecast import bound_s
from billet.core.memory import remember
from billet.core.model import Facts, Image

LOOK_S = 0.25
SHORT_S = 0.2  # boots that take less are not worth more looks
REMEMBERED = 1000  # of those of which something is foretold, in case they never boot


class BootQueue:
    """The queue before the boot worker, and what is known of images.

    Where containerd answers, what it has unpacked is what is here. Elsewhere it is what flintlockd has booted from
    since this agent looks at it; of other images nobody knows, and they count as missing only once a pull was seen.
    """

    def __init__(self) -> None:
        self.boots = BootEstimator()
        self._waiting: dict[str, tuple[Image, ...]] = {}  # by token, or by uid where there is none; first come first
        self._wanted: Counter[Image] = Counter()  # by those that wait
        self._here: set[Image] = set()
        self._told = False  # containerd has said what is here
        self._forecasts: dict[str, tuple[float, float]] = {}  # by token: when it was, and the bound

    def unpacked(self, images: frozenset[Image] | None) -> None:
        """What containerd has unpacked; None when it does not say."""
        self._told = images is not None
        if images is not None:
            self._here = set(images)

    @property
    def images(self) -> int | None:
        """How many images are here, None when containerd does not say."""
        return len(self._here) if self._told else None

    @property
    def pending(self) -> int:
        """How many wait for their boot, creates in hand included."""
        return len(self._waiting)

    @property
    def look_every_s(self) -> float:
        """How often to look whether the boot that runs is done, so that its time is known to an eighth or so."""
        boot_s = self.boots.boot_s
        return min(LOOK_S, boot_s / 8) if boot_s > SHORT_S else LOOK_S

    def facts(self, pressure: float | None, now_s: float) -> Facts:
        """What this host's bids carry."""
        boots, pending = self.boots, len(self._waiting)
        pulls = self._lacking(self._wanted)
        ahead_s = boots.ahead_s(pending, pulls, now_s)
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

    def missing(self, images: Iterable[Image]) -> int:
        """How many of them would have to be pulled, and are not going to be for those that wait already."""
        return self._lacking(image for image in images if not self._wanted[image])

    def coming(self, images: Iterable[Image]) -> int:
        """How many of them are not here yet, and are pulled for those that wait already."""
        return self._lacking(image for image in images if self._wanted[image])

    def _lacking(self, images: Iterable[Image]) -> int:
        if not self._told and self.boots.pull_s is None:
            return 0
        return len(set(images) - self._here)

    # What happens.

    def forecast(self, token: str, images: tuple[Image, ...], now_s: float) -> None:
        """A create begins: what a bid foretells of it is held against this host's own bound when it has booted."""
        bound = bound_s(self.facts(None, now_s), self.missing(images))
        if bound is not None:
            remember(self._forecasts, token, (now_s, bound), REMEMBERED)

    def waits(self, key: str, images: tuple[Image, ...]) -> None:
        """It waits for its boot. `key` is its token, or the uid of one that has none."""
        if key not in self._waiting:
            self._waiting[key] = images
            self._wanted.update(images)

    def waits_no_longer(self, key: str) -> None:
        """It has booted, failed, or is gone."""
        for image in self._waiting.pop(key, ()):
            self._wanted[image] -= 1
            if not self._wanted[image]:
                del self._wanted[image]

    def looked(self, rows: Sequence[tuple[str, tuple[Image, ...]]], now_s: float, in_hand: int = 0) -> None:
        """These became CREATED since the last look, each a token with its images, and wait no longer; the others
        still do, of which flintlockd does not yet know so many that are in hand."""
        self.boots.looked(len(rows), self._booted(rows, now_s), self.pending - in_hand, now_s)
        self.boots.late = self._late(now_s)

    def _booted(self, rows: Iterable[tuple[str, tuple[Image, ...]]], now_s: float) -> int:
        """How many images were pulled for them."""
        used: set[Image] = set()
        for token, images in rows:
            used.update(images)
            if token in self._forecasts:
                began_s, bound = self._forecasts.pop(token)
                self.boots.created(now_s - began_s, bound)
        pulled = len(used - self._here)
        self._here |= used
        return pulled

    def _late(self, now_s: float) -> int:
        """How many of those that wait will be beyond their bound, as things look now. The last of a long queue is
        CREATED long after its bound was set: to wait for that is to go on with bounds that are seen to be wrong."""
        late, lacking = 0, set[Image]()
        for place, (token, images) in enumerate(self._waiting.items(), 1):
            lacking.update(image for image in images if image not in self._here)
            if token in self._forecasts:
                began_s, bound = self._forecasts[token]
                still_s = self.boots.ahead_s(place, len(lacking), now_s) or 0.0
                late += now_s - began_s + still_s > bound
        return late

    def runs(self, images: Iterable[Image]) -> None:
        """A microVM that runs has these, and so they are here."""
        self._here.update(images)

"""The settings of auctions."""

from __future__ import annotations

from dataclasses import dataclass, field

from billet.core.fair_queue import DEFAULT_BOUNDS, Bounds
from billet.core.quotas import Quotas
from billet.core.scoring import DEFAULT_WEIGHTS, Weights


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of auctions; config.py says what each trades."""

    weights: Weights = DEFAULT_WEIGHTS
    ask_hosts: int = 3  # hosts asked per auction, 0 = all
    ask_random: int = 1  # hosts asked in addition, drawn by a hash of the auction
    call_for_bids: bool = False  # hosts are asked even while a standing bid may win
    create_timeout_s: float = 30.0
    call_timeout_s: float = 10.0
    shadow: Weights | None = None  # a second policy, which decides for the record only
    arrive_s: float = 5.0  # how long a new leader waits for hosts that have not connected to it yet
    suspect_share: float = 0.25  # of the connected hosts that may be suspect at once
    quotas: Quotas = field(default_factory=dict)
    creates: Bounds = DEFAULT_BOUNDS

"""What a simulated flintlockd answers when something beneath it fails, as a real one does."""

from billet.core.errors import NOT_FOUND

_SAVING = "creating microvm: saving microvm spec: "
FAULTS = (
    "creating microvm: checking to see if spec exists: getting vm spec from store: connection refused",
    f"{_SAVING}getting lease for owner: namespace {NOT_FOUND}",
    f"{_SAVING}getting containerd writer: write ref: no space left on device",
)
LOCKED = f"{_SAVING}getting containerd writer: ref flintlock/vm locked for 9ms: unavailable"
LIST_RACE = "getting all microvms: reading content sha256:0: failed reading from content store"
UNCLEAR = (
    f"{_SAVING}committing content to store: unavailable",
    "creating microvm: publishing microvm created event: unavailable",
)

"""Makes `python -m billet` the same as `billet`."""

from billet.cli import run

run()

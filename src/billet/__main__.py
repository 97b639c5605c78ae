"""`python -m billet` is `billet`."""

from billet.cli import run

run()

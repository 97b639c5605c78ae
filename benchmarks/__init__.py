"""How fast Billet is, beside the floor of a single flintlockd. `make bench`, docs/benchmarks.md."""

"""Benchmarks: creates through Billet, compared with a single flintlockd. `make bench`, docs/benchmarks.md."""

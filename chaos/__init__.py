"""Chaos tests: a fleet of real processes in network namespaces, clients, and injected faults.

Reading order: namespaces.py (machines and cuts), cluster.py (what runs on them), load.py (the clients and their
history), faults.py, intruders.py (faults of identity), operator.py (repairs after them), checkers.py (pure: history
and final state in, violations out), and the scenarios.
"""

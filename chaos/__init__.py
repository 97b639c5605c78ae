"""A whole fleet of real processes on machines of their own, a crowd of clients, and everything that can go wrong.

Reading order: namespaces.py (machines and cuts), cluster.py (what runs on them), load.py (the clients and their
history), faults.py, checkers.py (pure: history and final state in, violations out), and the scenarios.
"""

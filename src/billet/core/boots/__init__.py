"""Boots: how long they take on a host, what waits for one, and when a new microVM would be CREATED."""

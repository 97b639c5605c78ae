"""One host's boots: how long they take, what waits, and when a new microVM would be CREATED."""

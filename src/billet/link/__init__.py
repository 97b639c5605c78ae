"""The protocol between agents and servers: both ends of it, and its messages."""

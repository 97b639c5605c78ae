"""The protocol between agents and servers, both ends."""

"""The server that leads and those that wait to lead: asyncio over ports only."""

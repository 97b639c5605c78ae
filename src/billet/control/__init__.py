"""WHO acts, and in which order: asyncio over ports only."""

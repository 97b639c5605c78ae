"""HOW it is written down: protobuf and stored records, to and from the core's values."""

"""HOW data is encoded: protobuf and stored records, to and from the core's values; also auth and TLS."""

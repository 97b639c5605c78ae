"""The global state: etcd, SQLite, and what they share. One contract."""

"""The cluster's stored state: in etcd or SQLite, with one contract (ports.Store)."""

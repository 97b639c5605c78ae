"""Fixed placement workloads: their generator, two small files, and the tables of docs/scheduling.md."""

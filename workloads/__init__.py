"""Fixed placement workloads: their generator, two small files, and the tables of docs/lab/score-comparison.md."""

"""Benchmarks: `python -m tests.bench TABLE` prints one table of tests/bench/README.md."""

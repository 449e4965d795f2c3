"""Benchmarks: each table of docs/performance.md is a command, `python -m tests.bench TABLE`; they print ratios."""

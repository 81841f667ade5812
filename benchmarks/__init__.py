"""Benchmarks: `rllib-empathy bench`, or `python -m benchmarks.run`. What they show is told in docs/performance.md."""

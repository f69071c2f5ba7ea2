"""Runs public benchmarks through lmms-eval against a running system; see docs/benchmarks.md."""

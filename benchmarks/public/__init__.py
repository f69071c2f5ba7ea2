"""Public benchmarks by lmms-eval, asked of a running system. docs/benchmarks.md says how."""

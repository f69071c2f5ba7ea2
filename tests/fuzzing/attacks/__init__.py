"""Callers who do not keep the rules, each beside a caller who does."""

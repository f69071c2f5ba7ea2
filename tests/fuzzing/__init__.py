"""Hostile requests by number: the same seed and number always give the same request."""

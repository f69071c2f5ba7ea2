"""Hostile requests by number: the same seed and number always make the same request."""

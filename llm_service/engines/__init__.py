"""Decoding engines behind one interface."""

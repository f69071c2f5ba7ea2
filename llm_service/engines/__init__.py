"""Decoding engines behind one interface: continuous batching, and layer by layer for pruning."""

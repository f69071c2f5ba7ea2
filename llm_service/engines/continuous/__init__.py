"""Decoding by the transformers library's continuous batching: the engine for requests without pruning."""

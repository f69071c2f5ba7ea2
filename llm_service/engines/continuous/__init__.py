"""The engine for requests without pruning: the transformers library's continuous batching."""

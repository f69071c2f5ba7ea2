"""The device: tiles of all callers wait in one queue, and one thread encodes them in batches."""

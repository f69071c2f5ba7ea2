"""The device's side: tiles of all callers in one queue, encoded in batches by one thread."""

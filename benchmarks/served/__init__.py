"""Both services on one device under load, with random weights of a given shape: for a machine with a GPU."""

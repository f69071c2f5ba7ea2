"""`visionsplit batch`: jobs on whole datasets, run by `visionsplit_batch`."""

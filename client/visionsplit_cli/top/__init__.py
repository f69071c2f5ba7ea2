"""`visionsplit top`: what both services do right now, from their pages of metrics."""

"""The parameters that a request may set: their names, ranges and defaults, the same in every part of the system."""

"""A request's images from bytes to events: looked up, decoded, cut, encoded, kept, in the order of readiness."""

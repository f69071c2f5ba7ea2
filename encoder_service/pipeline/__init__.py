"""A request's images, from bytes to events: looked up, decoded, cut and encoded, in the order of readiness."""

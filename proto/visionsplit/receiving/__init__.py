"""How a server receives requests: within bounds for each connection and caller, and checked before they are parsed."""

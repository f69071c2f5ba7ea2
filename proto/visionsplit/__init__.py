"""What the two services and the client share: the protocol (`v1`), its checked meaning (`wire`) and checkpoints.

Imports go one way: `v1 <- wire <- services and client`; `grid` and `errors` stand on the standard library.
"""

__version__ = "0.1.0"

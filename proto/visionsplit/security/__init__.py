"""Encryption and authentication: certificates, tokens, and the parts of servers and clients that use them."""

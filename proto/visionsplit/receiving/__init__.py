"""Bounded reception of requests by a server: limits per connection and caller, and checks before parsing."""

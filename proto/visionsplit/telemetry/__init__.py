"""Metrics, traces and logs of a running service, shared by both services.

There is no global state: a server owns a `setup.Telemetry` with its registry and its tracer.
"""

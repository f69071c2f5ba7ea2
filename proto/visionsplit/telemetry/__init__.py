"""What a running service tells its operator: metrics, traces, logs. Shared by both services.

Nothing here is global: a server owns a `setup.Telemetry` with a registry and a tracer of its own.
"""

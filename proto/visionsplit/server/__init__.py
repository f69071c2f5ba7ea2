"""A gRPC service as a server and as a process: what both services do alike from their start to their end."""

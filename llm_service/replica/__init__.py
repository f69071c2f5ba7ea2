"""One copy of the language model, which knows neither gRPC nor Ray."""

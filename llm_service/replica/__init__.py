"""One copy of the language model, independent of gRPC and Ray."""

"""The engine that decodes with vLLM. Only `environment` and `plugin` can be imported where vLLM is not installed."""

"""What a server puts around its calls: turns, refusal under overload, tokens, errors, health, log, process limits."""

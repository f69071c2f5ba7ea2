"""What both servers share: turns among callers, refusal under overload, health, the log of calls, process limits."""

"""The calls of LlmService: uploads received within limits, checked, given to a replica, and answered with text."""

"""Tests the system under more requests than it can answer, and while its parts are killed."""

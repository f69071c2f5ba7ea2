"""Tests the rule of docs/admission.md on random patterns of arrivals and service, against an oracle."""

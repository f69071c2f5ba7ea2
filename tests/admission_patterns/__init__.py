"""The rule of docs/admission.md tried on random patterns of arrivals and service, against an oracle."""

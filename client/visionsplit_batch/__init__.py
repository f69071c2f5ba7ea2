"""Offline jobs: caption or encode a dataset, with running services or on a Ray cluster that the job starts."""

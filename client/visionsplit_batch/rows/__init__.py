"""Rows on their way: entries of the input, contents, results, and the records that are written."""

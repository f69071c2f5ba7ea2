"""Settings and options: kinds of values, settings that are declared once, and the sources that they are read from."""

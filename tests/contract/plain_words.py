"""Words that documentation and help texts do not use, because a plainer one exists: docs/glossary.md has the terms."""

import re

# "is no longer" and "is no more than" are plain English.
DIALECT = re.compile(
    r"\b(nobody|anew|whoever|of its own|of their own|of theirs|so many|told of|counted through|by lot|pictures?"
    r"|is no(?! longer\b| more\b| less\b))\b",
    re.IGNORECASE,
)

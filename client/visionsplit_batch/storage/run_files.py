"""The names of what a run leaves in its output folder beside the answers."""

STATE = "_run"
RUN_SETTINGS = f"{STATE}/settings.json"  # a folder that has it is the output of a run
ERRORS = "errors.jsonl"

"""A job from its listing to its last part: what is done, what is left, and what the output folder says about it."""

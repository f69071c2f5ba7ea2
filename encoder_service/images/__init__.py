"""Cutting RGB images into the tiles that the vision tower reads."""

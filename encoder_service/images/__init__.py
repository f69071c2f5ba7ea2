"""From an RGB image to the tiles that the vision tower reads."""

"""`visionsplit visualize`: which vision tokens an image keeps, drawn on the image."""

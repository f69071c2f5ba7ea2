"""LLaVA-NeXT (1.6): CLIP, crops on a padded canvas, a newline after each row of it."""

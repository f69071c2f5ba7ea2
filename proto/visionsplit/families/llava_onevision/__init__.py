"""LLaVA-OneVision: SigLIP, a padded canvas that is pooled where it is large, a newline after each row of it."""

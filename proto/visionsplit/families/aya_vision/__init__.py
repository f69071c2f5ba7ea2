"""Aya Vision: SigLIP, blocks of patches and a gated connector, a run with a marker for each tile, Cohere2."""

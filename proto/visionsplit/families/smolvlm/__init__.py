"""SmolVLM and Idefics3: a tower like SigLIP, blocks of patches, a run with row and column markers for each tile."""

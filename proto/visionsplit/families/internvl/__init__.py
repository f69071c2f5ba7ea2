"""InternVL 2.5, 3 and 3.5: InternViT with [CLS], blocks of patches, crops first and the thumbnail last."""

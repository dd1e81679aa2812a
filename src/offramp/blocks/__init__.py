"""Find, run and read the blocks of a transformers model."""

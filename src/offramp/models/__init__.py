"""Models of transformers with exits: run, load, save."""

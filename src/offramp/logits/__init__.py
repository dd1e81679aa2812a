"""Pure functions of scores: what to make of two exits' opinions. No model, no cache."""

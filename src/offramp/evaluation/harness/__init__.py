"""A model type and tasks for lm-evaluation-harness (the extra ``lm-eval``)."""

"""See what every layer would have said: what is traced, as values, and ways to show it.

Below the models: a trace sees a model through the protocol in ``offramp.trace.reading``, so that
``model.trace(...)`` needs no import upwards (docs/decisions/0010-trace-below-models.md).
"""

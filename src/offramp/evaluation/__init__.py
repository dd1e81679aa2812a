"""Measure what exits say and the text they write."""

"""Serve a model over HTTP: write many texts at a time, speak as OpenAI does, show a page."""

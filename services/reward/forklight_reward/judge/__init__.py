"""Generative reward model: what judges, how it is asked, and what watches it."""

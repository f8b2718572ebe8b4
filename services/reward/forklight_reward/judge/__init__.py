"""Generative reward model: the contract of an engine, and a rule-based engine for tests."""

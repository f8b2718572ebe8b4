"""Samples and groups: search, one trajectory with its tokens, the samples of a group side by side."""

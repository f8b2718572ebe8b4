"""Runs over each other: curves, final figures, differing run file keys."""

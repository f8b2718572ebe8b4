"""Logic puzzles: made from a seed, solved, verified by rules. Nothing a model writes is evaluated."""

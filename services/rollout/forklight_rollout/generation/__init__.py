"""Which samples run: their drafts, versions and ends, in the one thread that owns the engine."""

"""The buffer: prompts, credit, groups, batches, ledger. The only writer of a sample's state."""

"""The ledger: states of the samples, stuck ids, dead letters."""

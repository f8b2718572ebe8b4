"""The groups a pod holds leases on: taken in, kept, saved while they run, handed over sample by sample."""

"""Training one model by several processes: sequences cut into slices, experts in different places."""

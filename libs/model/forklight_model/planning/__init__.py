"""What a training run needs and yields, by arithmetic: memory, time, traffic, cost. Needs no GPU."""

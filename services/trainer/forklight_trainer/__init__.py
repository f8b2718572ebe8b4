"""The trainer: batches in, optimizer steps, checkpoints and published weights out."""

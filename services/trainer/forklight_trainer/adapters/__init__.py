"""What stands behind the trainer's ports."""

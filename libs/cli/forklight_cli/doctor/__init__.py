"""What has to be right on a machine, checked by doing it."""

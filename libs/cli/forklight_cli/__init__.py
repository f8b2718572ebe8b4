"""The `forklight` command: runs and inspects everything, imports services only when a command needs them."""

"""Other places to run a job than this machine's jails: bare processes, containers and pods."""

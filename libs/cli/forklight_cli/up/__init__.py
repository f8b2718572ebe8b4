"""The supervisor: all services of one run as processes of this machine."""

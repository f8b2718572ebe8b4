"""Sessions: commands in a folder that keeps what they change, so that a policy may work in many turns."""

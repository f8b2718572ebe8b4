"""What a generation may call out to: the format of a call, the tools, and who answers."""

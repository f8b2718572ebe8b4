"""What the front's ports are made of: gRPC in production, this process in tests."""

"""The run as the console sees it: over gRPC and files, or in memory for tests."""

"""Engines, the buffer's door over gRPC, and in-memory fakes of both."""

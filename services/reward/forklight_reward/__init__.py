"""Forklight's reward service: a front door that routes by task kind to a verifier, a sandbox and a judge."""

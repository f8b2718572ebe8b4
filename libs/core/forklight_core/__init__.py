"""Forklight's ground floor: ids, envelopes, wire, queues, blobs, rpc, telemetry, errors, settings. No torch."""

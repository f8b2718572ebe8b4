"""Forklight's ground floor: ids, wire, queues, blobs, rpc, telemetry, errors, settings. No torch."""

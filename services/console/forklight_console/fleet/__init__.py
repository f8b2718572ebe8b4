"""The fleet: rollout pods, their versions and work, leases, and the workloads of a cluster."""

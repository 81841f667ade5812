"""Experiments on clusters: what they need, whether a cluster has it, how they get there and how they outlive faults."""

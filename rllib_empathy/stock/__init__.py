"""Gifting and reciprocal rewards for RLlib's own algorithms: a team's environment, connectors, networks and runners."""

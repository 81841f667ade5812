"""Schelling diagrams: what cooperating and defecting earn, by how many others cooperate, and whether that is a dilemma."""

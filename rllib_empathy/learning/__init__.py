"""How agents learn: RLlib's Algorithm and Learner over joint trajectories."""

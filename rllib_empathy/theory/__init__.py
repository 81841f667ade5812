"""What can be worked out about the agents on paper, beside simulations of it."""

"""How agents feel about each other's rewards: pure functions on tensors."""

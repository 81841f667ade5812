"""How games are played: batched worlds, one forward pass per step for all games and agents."""

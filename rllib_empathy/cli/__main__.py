"""`python -m rllib_empathy.cli`."""

from rllib_empathy.cli import app

app()

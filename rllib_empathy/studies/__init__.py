"""Studies: many trials of one experiment through Ray Tune, and what they show together."""

"""Experiments: files that say what to run, runs that can be resumed, evaluation of what was learned."""

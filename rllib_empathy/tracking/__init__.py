"""MLflow: what runs have in their folders, to be browsed, compared and deployed."""

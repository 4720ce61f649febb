"""Searches hyperparameters for the merged model: proposals, halving, scores and records."""

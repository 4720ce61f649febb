"""Tasks, their images, and the scores of models on them."""

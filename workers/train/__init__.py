"""Fine-tuning trials and pretraining, resumable."""

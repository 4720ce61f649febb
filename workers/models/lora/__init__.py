"""LoRA: low-rank adapters of a backbone's layers, in training, in files and as dense weights."""

"""Backbones, classifiers and their tensors: timm, torch and safetensors, without scheduling."""

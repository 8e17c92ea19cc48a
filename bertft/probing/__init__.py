"""Probes: what a layer knows, read by small classifiers trained on frozen features."""

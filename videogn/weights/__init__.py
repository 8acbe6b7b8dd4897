"""Checkpoints from elsewhere into this network, and this network out to others."""

"""Segments that a person shows in a few images, found in videos: SMITE (Alimohammadi et al., ICLR 2025)."""

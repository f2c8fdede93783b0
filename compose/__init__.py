"""Moves as one script: reads the scripts, takes their diffs apart, merges them again."""

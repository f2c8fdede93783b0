"""What runs a script: fast forward passes, options, log, folder, measures. Skip at first."""

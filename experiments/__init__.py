"""What each axis does, measured: catalogue, runner, probes, effects, reports, benchmark, logs."""

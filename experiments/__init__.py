"""What each axis does, measured: arms, runner, probes, effects, reports, benchmark, logs."""

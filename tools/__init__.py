"""Commands around a run: play with a model, diagnose a run, go on with TRL."""

"""Numbers from arrays: what predictions are worth, knowing neither files, nor a host, nor a configuration."""

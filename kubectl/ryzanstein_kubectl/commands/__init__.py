"""One module a command: asks `cluster`, shows by `view`. Knows flags and exit codes."""

"""Image archives as both daemons read them: a tar file in place, and what has to be done to get one."""

"""The cluster: trials, jobs, fair share and submissions. No other room imports Ray."""

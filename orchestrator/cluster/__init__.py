"""The one place that imports Ray: its session, Tune trials, and the pool of job workers."""

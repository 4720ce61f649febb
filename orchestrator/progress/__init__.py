"""How far a run is, shown here and left for watchers elsewhere."""

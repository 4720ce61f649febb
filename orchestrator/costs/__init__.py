"""Time, bytes and money: measured, estimated, limited by a budget."""

"""What a plan costs: operations and memory by a dry run, time by a device or by real steps."""

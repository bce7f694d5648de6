"""What a search will take, told before it runs: work, memory, a calibrated roofline, disk."""

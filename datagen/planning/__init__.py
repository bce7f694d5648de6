"""What a run will take, told before it runs: devices, sizes of models, a roofline, and the plan of a data set."""

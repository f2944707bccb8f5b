"""AnimateDiff's motion module in plain torch: the network and the files' key layouts. No host."""

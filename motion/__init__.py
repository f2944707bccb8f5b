"""AnimateDiff's motion module in plain torch: the network and the published files' key layouts.
Runs without the host.
"""

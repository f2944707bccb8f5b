"""From "how long may it take" to steps, cost and route.

cost.py says what is asked and what it costs, ways.py what can be run, advice.py what to do.
"""

"""The mathematics of few-step sampling in plain torch: schedules, plans, solvers. Runs without the
host.
"""

"""The mathematics of few-step sampling in plain torch: schedules, plans, solvers. No host."""

"""What RL Zoo's ``--optimize-hyperparameters`` searches, a module for each algorithm or several that are alike.

Each has two functions: ``sample(trial)`` draws what a trial stores, ``convert(stored)`` makes hyperparameters of it.
``on_policy`` holds what those of PPO and A2C share.
"""

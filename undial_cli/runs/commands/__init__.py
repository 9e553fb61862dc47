"""Commands that train and evaluate nothing: they look at configs, runs, caches and the machine.

Nothing that carries out a run knows them.
"""

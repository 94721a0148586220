"""Experiments: what the usual notes on convolutions claim, measured here, each with a verdict that the data decide.

    experiment.py   what an experiment is made of
    run.py          measures one, and keeps the results in a file
    show.py         its table, its picture, and its chapter of docs/experiments.md
    catalogue.py    all of them
    command.py      ``python -m convbound.bench experiment``

Every other file is one experiment.
"""

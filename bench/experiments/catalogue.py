"""All experiments, in the order in which they are read."""

from convbound.bench.experiments import (
    cold,
    dilation,
    filters,
    fusing,
    groups,
    guidelines,
    headline,
    layout,
    receptive,
    scatter,
    separable,
    three,
    transposed,
)
from convbound.bench.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        three,
        headline,
        groups,
        filters,
        receptive,
        dilation,
        transposed,
        separable,
        guidelines,
        scatter,
        fusing,
        layout,
        cold,
    )
}

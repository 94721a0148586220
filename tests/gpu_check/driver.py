"""What compute-sanitizer watches: each row of the registry on a few problems, in tensors allocated to the byte."""

from __future__ import annotations

import argparse
import sys

import torch
from support import device as registry
from support.check import explain_inexact

from convbound import fakes
from convbound.layout import to_layout
from gpu_check.rows import WRITTEN, case, launch, served
from gpu_check.target import Target, find_target

PROBLEMS_PER_ROW = 4


def drive(target: Target) -> list[str]:
    """Run the rows; returns what was wrong with their results."""
    wrong = []
    for row in registry.rows():
        problems = served(row, target)
        for problem in problems[:: max(1, len(problems) // PROBLEMS_PER_ROW)][:PROBLEMS_PER_ROW]:
            pass_, dtype = row["pass"].name, registry.dtype_of(row)
            channels_last = row["layout"].name == "NHWC"
            operands, wanted = case(problem, pass_, dtype)
            tensors = {}
            for name, tensor in vars(operands).items():
                last = channels_last and tensor.dim() > 1
                # Inputs are copied from the host, which initcheck sees, and outputs are left uninitialised.
                dense = to_layout(tensor, last).to(target.device)
                shape = {"w": problem.w_shape, "bias": (problem.k,)}.get(name, tuple(tensor.shape))
                tensors[name] = fakes.empty_dense(dense, shape, last) if name in WRITTEN[pass_] else dense
            launch(target, row, problem, tensors)
            results = {result: tensors[name].cpu() for name, result in WRITTEN[pass_].items()}
            if complaint := explain_inexact(results, wanted, dtype):
                wrong.append(f"row {registry.row_id(row)} {problem}: {complaint}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_check.driver")
    parser.add_argument("--target", choices=("gpu", "emulator"), required=True)
    torch.set_num_threads(1)
    wrong = drive(find_target(parser.parse_args().target))
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

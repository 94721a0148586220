"""A fuzzer: random convolutions through every function, backend and kernel, and what is wrong with them.

``make fuzz`` runs it; ``FUZZ='--help'`` tells how. The modules: `draw` makes problems, `call` and `rows` are the two
kinds of cases, `targets` says what there is to fuzz, `memory` guards tensors, `judge` compares, `workers` runs cases in
processes of their own, `shrink` makes failing ones small.
"""

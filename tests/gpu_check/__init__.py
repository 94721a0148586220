"""``make gpu-check``: everything that only a GPU can show, in one run that leaves one report file.

``rows`` checks every kernel against fp64, ``behaviour`` streams, graphs, devices and autograd. ``worker`` runs the
checks in a process that a broken kernel may take down, and ``supervisor`` starts it again behind the one that did.
``sanitizers`` runs compute-sanitizer over ``driver``, and ``report`` writes what was found.
"""

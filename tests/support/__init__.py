"""What the tests share: the fp64 reference, data that makes exact comparison possible, the checker and the problems."""

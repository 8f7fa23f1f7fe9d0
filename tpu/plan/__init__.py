"""What a step would need on a slice: compiled for it ahead of time, on a machine without a TPU.

chips        published figures of the chips, and how a slice is wired
target       the devices that are compiled for; where libtpu is
program      the real step of a method, lowered from shapes alone
layouts      which meshes fit, and the nearest to one that does not
hlo          a compiled program as a graph of computations
counts       its operations and bytes, loops as often as they run
collectives  what its chips say to each other, by mesh axis
schedule     what of that is hidden behind other work, as the compiler schedules it
work         the same by hand, from the sizes of the model
memory       what a chip holds when a step begins, by what it is
planning     all of that, as a plan
search       layouts, rematerialisation, micro-batches and the largest batch: tried and ranked
train_flags  how `train` is told to do what was planned
cache        plans that were made are kept
table        a page of plans
"""

"""``python -m tests.simulation --seeds N``: many seeds, then every mutant. ``--seed N --trace``: one, line by line."""
from tests.simulation.run import simulate
import sys, time
t=time.time(); bad=0; steps=0
a,b=int(sys.argv[1]),int(sys.argv[2])
for seed in range(a,b):
    r=simulate(seed, keep=len(sys.argv)>3)
    steps+=r.steps
    if r.violation:
        bad+=1; print(seed, r.violation[:300])
        if len(sys.argv)>3: print("\n".join(r.lines))
print(bad, steps/(b-a), (time.time()-t)/(b-a))

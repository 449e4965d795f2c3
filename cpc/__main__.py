"""`python -m cpc …` is the command `cpc …`, so that `torchrun -m cpc train …` works."""

from cpc.cli import main

main()

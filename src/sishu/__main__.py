"""`python -m sishu` is the `sishu` command."""

from sishu.command import main

main()

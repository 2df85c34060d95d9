"""`python -m mmjax`."""

from mmjax.cli import main

main()

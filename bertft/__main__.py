"""`python -m bertft`."""

from bertft.cli import main

main()

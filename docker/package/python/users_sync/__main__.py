"""`python -m users_sync`."""

from users_sync import main

main()

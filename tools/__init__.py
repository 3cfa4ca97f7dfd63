"""Small programs that check this repository; each is run by `make lint`."""

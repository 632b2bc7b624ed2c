"""The job ledger: the jobs, which worker holds each one, and the events that report them."""

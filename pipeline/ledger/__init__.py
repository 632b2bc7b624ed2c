"""The job ledger: the jobs, who holds each, and the events that report them."""

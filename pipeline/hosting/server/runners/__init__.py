"""Which llama.cpp runners are loaded, and which request each of them serves.

scheduler.py        admits requests to runners and loads the runners they wait for
base_queue.py       one base: the instance that serves it and the requests that wait
pending_request.py  one request that waits for an instance
instance_pool.py    all bases: which instances are in memory, which one is evicted
instance.py         one loaded runner, its requests in flight, draining and closing
loader.py           loads one runner and falls back to fewer adapters when that fails
load_backoff.py     delays loads that keep failing
load_report.py      what is logged and counted of each load
load_worker.py      the threads that load runners while requests wait
adapter_choice.py   which adapters of a base are loaded together
capacity.py         limits: runners, adapters, slots, context
runner.py           the port: one loaded llama.cpp
llama_api.py        what the runners in the process and behind HTTP have in common
slots.py            which llama.cpp slot serves a request, and when its KV cache is reused
usage.py            what a runner reports of a completion
"""

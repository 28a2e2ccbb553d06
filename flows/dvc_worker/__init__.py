"""DVC in a separate process: the protocol, the worker process and its driver in the flow."""

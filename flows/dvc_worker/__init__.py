"""DVC in a process of its own: the protocol, the worker process and its driver in the flow."""

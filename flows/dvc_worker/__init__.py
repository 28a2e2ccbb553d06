"""DVC in a process of its own: the protocol, the worker and its driver."""

"""The Prefect server of a run, the session around a flow, stale runs and report pages."""

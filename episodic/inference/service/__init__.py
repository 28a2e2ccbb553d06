"""The HTTP services of models: `episodic serve`, and what `episodic demo` shares with it."""

"""`python -m tasks.params` checks params.yaml and prints what it means."""

from tasks.params import main

if __name__ == "__main__":
    main()

"""The commands that are more than a few lines, a file a subject; `worker.cli` puts them together.

Each file has its click commands in `COMMANDS`. What they do beyond reading arguments and printing lives in the modules
below; they reach Kafka through `common.run` and end by raising errors, whose exit codes are the command line's.
"""
